"""Start all ranks of a model: look whether they are alike, give each its layers, and load them. Runs on rank 0."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.core as mx

from gptoss_mlx.distributed import group as ring
from gptoss_mlx.distributed.first import FirstRank, Orders
from gptoss_mlx.distributed.hosts import Backend, Host, read_hosts
from gptoss_mlx.distributed.parts import Part, likeness, room
from gptoss_mlx.distributed.plan import Room, joint_plan, shares
from gptoss_mlx.distributed.ranks import Ranks
from gptoss_mlx.errors import RankError
from gptoss_mlx.installed import lasting_name
from gptoss_mlx.memory.plan import MemoryPlan
from gptoss_mlx.model.decoder import Decoder
from gptoss_mlx.model.weights import DTYPES
from gptoss_mlx.model_folder import ModelFolder


def start(
    folder: ModelFolder,
    where: int | str | Path,
    backend: Backend,
    *,
    memory: int | None,
    context: int | None,
    dtype: mx.Dtype,
    progress: Callable[[int, int], None] | None,
) -> tuple[Decoder, MemoryPlan]:
    """Start the ranks ``where`` they are to run, load the model on all, and return rank 0's decoder, and the plan of
    what fits on all. ``memory`` is what each rank may take. ``progress`` is called with (bytes read, total) of rank 0.

    From then on the loss of a rank ends this process. Raises UsageError, RankError for a rank that does not start or is
    unlike this one, and MemoryBudgetError for one whose part does not fit.
    """
    hosts = read_hosts(where, backend)
    ring.check_backend(backend)
    sharing = sum(host.ssh == hosts[0].ssh for host in hosts)
    own = room("rank 0", memory, sharing)
    ranks, found = Ranks.start(hosts, {"model": lasting_name(folder.path), "memory": memory})
    try:
        check_alike(ranks, likeness(folder), [said["like"] for said in found])
        rooms = [own, *(Room(**said["room"] | {"name": ranks.name(n)}) for n, said in enumerate(found, 1))]
        parts = shares(folder.config, folder.dense, rooms, context=context, dtype=dtype)
        name = next(name for name, value in DTYPES.items() if value == dtype)
        told = [
            Part(
                (share.layers.start, share.layers.stop),
                share.plan.slots,
                share.plan.context,
                name,
                share.plan["allocator cache"],
            )
            for share in parts
        ]
        addresses = _addresses(hosts, backend, found)
        rdma = [host.rdma for host in hosts]
        ranks.work_together()
        ranks.tell({"backend": backend, "addresses": addresses, "rdma": rdma, "parts": [asdict(part) for part in told]})
        joined = ring.join(backend, 0, addresses, rdma)
        decoder = told[0].load(folder, ends=True, progress=progress)
        ranks.answers()
    except BaseException:
        ranks.end()
        raise
    first = FirstRank(decoder.config, decoder.weights, Orders(ranks, joined))
    return first, joint_plan(folder.config, parts, dtype)


def _addresses(hosts: Sequence[Host], backend: Backend, found: Sequence[Any]) -> list[list[str]]:
    """Return where each rank listens in the ring, or for jaccl where rank 0 does."""
    own = [ring.free_address(ip) for ip in hosts[0].ips]
    return [own, *(said["addresses"] for said in found)] if backend == "ring" else [own[:1]]


def check_alike(ranks: Ranks, own: dict[str, Any], others: Sequence[dict[str, Any]]) -> None:
    """Raise RankError for a rank whose ``likeness`` is not rank 0's."""
    for rank, other in enumerate(others, 1):
        for what, value in own.items():
            if other.get(what) != value:
                theirs, ours = (str(one)[:16] for one in (other.get(what), value))
                raise RankError(
                    f"{ranks.name(rank)} has other {what} ({theirs}) than rank 0 ({ours}); "
                    "install the same version and the same model on all"
                )
