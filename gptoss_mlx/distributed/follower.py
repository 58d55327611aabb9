"""A rank from 1 on: what it does is what rank 0 says. ``python -m gptoss_mlx.distributed.follower``, by its guard.

A line of JSON on standard input says where rank 0 is. The rank tells rank 0 what it is (``about``), gets its layers,
and then orders, each a list of steps done in this order:

    ["new", n]               cache n has seen nothing
    ["mark", a, n]           n is a mark of a
    ["share", a, n]          n is a second cache in the state of a
    ["rewind", a, n]         a returns to its mark n
    ["drop", n]              forget n
    ["read", [a], shape]     a's next positions pass through the layers: [B, L, H] come from the rank before, and go on
    ["step", [a, ...], shape]    the same for the next positions of several sequences, [T, H]
"""

import json
import os
import socket
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import mlx.core as mx

import metal_kernels  # noqa: F401  (loads a BLAS before mlx is imported)
from gptoss_mlx.distributed.group import free_address, join, received, sent_on
from gptoss_mlx.distributed.parts import Part, about, opened
from gptoss_mlx.distributed.wire import BEAT, BEAT_SECONDS, SILENT_SECONDS, Wire
from gptoss_mlx.errors import GptOssError, RankError, one_line
from gptoss_mlx.model.cache import KVCache
from gptoss_mlx.model.decoder import Decoder


def main() -> int:
    """Take part until rank 0 ends. Return the exit code."""
    job = json.loads(sys.stdin.readline())
    wire = Wire(socket.create_connection(tuple(job["address"]), timeout=SILENT_SECONDS))
    wire.send({"token": job["token"], "rank": job["rank"]})
    threading.Thread(target=_beat, args=(wire,), name="beats", daemon=True).start()
    try:
        addresses = [free_address(ip) for ip in job["ips"]]
        folder = opened(job["model"])
        wire.send(about(folder, job["memory"], job["sharing"]) | {"addresses": addresses})
        told = _next(wire)
        group = join(told["backend"], job["rank"], told["addresses"], told["rdma"])
        decoder = Part(**told["parts"][job["rank"]]).load(folder, ends=False)
        wire.send("ready")
        follow(decoder, group, wire)
    except _Over:
        return 0
    except (GptOssError, RuntimeError, MemoryError, OSError) as error:
        with suppress(OSError):
            wire.send({"failed": one_line(error), "code": getattr(error, "exit_code", RankError.exit_code)})
        return 1
    return 0


class _Over(Exception):
    """Rank 0 has ended."""


def follow(decoder: Decoder, group: mx.distributed.Group, wire: Wire) -> None:
    """Do what rank 0 says, until it ends. Raises what a step raises."""
    caches: dict[int, KVCache] = {}
    while True:
        for name, *rest in _next(wire):
            match name, rest:
                case "new", [n]:
                    caches[n] = decoder.cache()
                case "mark", [a, n]:
                    caches[n] = caches[a].mark()
                case "share", [a, n]:
                    caches[n] = caches[a].shared()
                case "rewind", [a, n]:
                    caches[a].rewind(caches[n])
                case "drop", [n]:
                    del caches[n]
                case "read" | "step", [numbers, shape]:
                    _pass_on(decoder, group, name == "read", [caches[n] for n in numbers], shape)
                case _:
                    raise RankError(f"rank 0 says {name!r:.40}, which is no step")


def _pass_on(
    decoder: Decoder, group: mx.distributed.Group, prompt: bool, caches: list[KVCache], shape: list[int]
) -> None:
    x = received(shape, group)
    if prompt:
        x = decoder.read(x, caches[0])
    else:
        step = decoder.step(x, caches)
        while step.repeat():
            pass
        x = step.x
    mx.eval(sent_on(x, group), [cache.arrays() for cache in caches])


def _next(wire: Wire) -> Any:
    """Return the next thing that rank 0 says. Raises _Over at its end, and where it is silent."""
    while True:
        try:
            said = wire.receive()
        except OSError as error:
            raise _Over from error
        if said != BEAT:
            return said


def _beat(wire: Wire) -> None:
    """Say every second that this process lives, and end it where nobody listens any more."""
    while True:
        try:
            wire.send(BEAT)
        except OSError:
            os._exit(1)
        time.sleep(BEAT_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
