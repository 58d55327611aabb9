"""The ring of ranks over which hidden states go, as ``mx.distributed`` has it. Knows no model.

MLX reads how to join from environment variables and a file, and keeps a group for the life of the process.
"""

import json
import os
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager

import mlx.core as mx

from gptoss_mlx.distributed.hosts import Backend
from gptoss_mlx.errors import RankError, UsageError, one_line

_joined = threading.Event()


def free_address(ip: str) -> str:
    """Return the address with a port that nobody uses now. Raises RankError if the address is not this machine's."""
    try:
        with closing(socket.create_server((ip, 0))) as server:
            return f"{ip}:{server.getsockname()[1]}"
    except OSError as error:
        raise RankError(f"{ip} is no address of this machine ({os.strerror(error.errno or 0)})") from error


def check_backend(backend: Backend) -> None:
    """Raise UsageError where MLX was built without ``backend``, where a setting lets ranks hang, and where this process
    has joined a group before."""
    if not mx.distributed.is_available(backend):
        raise UsageError(f"MLX {mx.__version__} has no {backend} here; use ring")  # type: ignore[attr-defined]
    if os.environ.get("MLX_METAL_FAST_SYNCH", "0") != "0":
        raise UsageError("unset MLX_METAL_FAST_SYNCH: with it ranks may hang until the Mac restarts (mlx issue 3830)")
    if _joined.is_set():
        raise UsageError("this process has joined its ranks before, and MLX joins once only; use a new process")


def join(
    backend: Backend, rank: int, addresses: Sequence[Sequence[str]], rdma: Sequence[Sequence[object]]
) -> mx.distributed.Group:
    """Join as ``rank``, and wait for the others. ``addresses`` are each rank's in the ring, or for jaccl those of rank
    0 alone; ``rdma`` are each rank's devices there. Raises RankError where MLX cannot join."""
    with ExitStack() as stack:
        if backend == "ring":
            variables = {"MLX_HOSTFILE": stack.enter_context(_file(addresses))}
        else:
            variables = {
                "MLX_IBV_DEVICES": stack.enter_context(_file(rdma)),
                "MLX_JACCL_COORDINATOR": addresses[0][0],
            }
        os.environ |= variables | {"MLX_RANK": str(rank)}
        _joined.set()
        try:
            return mx.distributed.init(strict=True, backend=backend)
        except (RuntimeError, ValueError) as error:
            raise RankError(f"the ranks cannot be joined over {backend}: {one_line(error)}") from error
        finally:
            for name in (*variables, "MLX_RANK"):
                del os.environ[name]


def sent_on(x: mx.array, group: mx.distributed.Group) -> mx.array:
    """Send ``x`` to the next rank, the last one to rank 0. Return what to evaluate."""
    return mx.distributed.send(x, (group.rank() + 1) % group.size(), group=group)


def received(shape: Sequence[int], group: mx.distributed.Group) -> mx.array:
    """Return float32 of ``shape`` that the rank before sends, the last one to rank 0. Receptions are evaluated in the
    order of what is sent."""
    return mx.distributed.recv(tuple(shape), mx.float32, (group.rank() - 1) % group.size(), group=group)


def wait_for(x: mx.array) -> None:
    """Wait for what is received before the GPU is given work on it. Metal ends a command buffer that waits for 5 s
    (mlx issue 3830), and a long prompt takes a rank so long. A step of decoding does not, and waiting costs it time."""
    mx.eval(x)


@contextmanager
def _file(content: object) -> Iterator[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(content, file)
        file.flush()
        yield file.name
