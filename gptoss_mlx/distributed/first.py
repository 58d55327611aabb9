"""Rank 0: a decoder whose later layers are elsewhere, and caches that other ranks have a part of.

The engine uses them as it uses any decoder and any cache. That is why they are of these classes: a step goes on to the
other ranks where it leaves the own layers, and what is done to a cache here is said there, in the same order. Other
ranks know a cache by its number.
"""

import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import mlx.core as mx

from gptoss_mlx.distributed import group as ring
from gptoss_mlx.distributed.hosts import Backend, Host, read_hosts
from gptoss_mlx.distributed.parts import DTYPES, Part, likeness, room
from gptoss_mlx.distributed.plan import Room, joint_plan, shares
from gptoss_mlx.distributed.ranks import Ranks
from gptoss_mlx.engine.memory import MemoryPlan
from gptoss_mlx.errors import RankError, one_line
from gptoss_mlx.installed import lasting_name
from gptoss_mlx.model.cache import KVCache, LayerCache
from gptoss_mlx.model.decoder import Decoder, Step
from gptoss_mlx.model_folder import ModelFolder


@dataclass(eq=False)
class Orders:
    """What the other ranks are told. What is done to caches is told with the next step, before it."""

    ranks: Ranks
    group: mx.distributed.Group
    _noted: list[list[Any]] = field(default_factory=list, init=False)
    _dropped: "deque[int]" = field(default_factory=deque, init=False)
    _numbers: Iterator[int] = field(default_factory=count, init=False)

    def new(self, *how: Any) -> int:
        """Note that a cache is made, by the name and the arguments of a step of ``follower``. Return its number."""
        number = next(self._numbers)
        self.note(*how, number)
        return number

    def note(self, *step: Any) -> None:
        self._noted.append(list(step))

    def forget(self, number: int) -> None:
        """Note that nothing here holds a cache any more. Any thread may call this, at any time."""
        self._dropped.append(number)

    def through(self, x: mx.array, name: str, caches: Sequence[KVCache]) -> mx.array:
        """Pass x [..., H] float32 through the layers of all other ranks, and return it. What is sent and what is told
        belong together, so no signal comes between."""
        with _uninterrupted():
            mx.async_eval(ring.sent_on(x, self.group))
            dropped = [["drop", self._dropped.popleft()] for _ in range(len(self._dropped))]
            noted, self._noted = self._noted, []
            numbers = [cache.number for cache in caches if isinstance(cache, SpreadCache)]
            self.ranks.tell([*noted, *dropped, [name, numbers, x.shape]])
            passed = ring.received(x.shape, self.group)
            mx.async_eval(passed)  # even if nobody wants it in the end, because the next reception comes after it
        return passed


class SpreadCache(KVCache):
    """The own layers of a cache, or of a mark, that other ranks know as ``number``."""

    def __init__(self, layers: list[LayerCache], orders: Orders, number: int) -> None:
        super().__init__(layers)
        self.number = number
        self._orders = orders

    def mark(self) -> "SpreadCache":
        """Return a state for ``rewind``, here and on the other ranks."""
        return self._with(super().mark(), "mark")

    def shared(self) -> "SpreadCache":
        """Return a second cache in the same state, here and on the other ranks."""
        return self._with(super().shared(), "share")

    def rewind(self, mark: KVCache) -> None:
        """Forget every position after ``mark``, here and on the other ranks."""
        assert isinstance(mark, SpreadCache)
        with _uninterrupted():
            super().rewind(mark)
            self._orders.note("rewind", self.number, mark.number)

    def _with(self, own: KVCache, how: str) -> "SpreadCache":
        return SpreadCache(own.layers, self._orders, self._orders.new(how, self.number))

    def __del__(self) -> None:
        self._orders.forget(self.number)


@dataclass
class FirstRank(Decoder):
    """Rank 0's layers, and through ``orders`` those of the others. ``config`` is that of the own layers."""

    orders: Orders

    def cache(self) -> KVCache:
        """Return a cache that has seen nothing, here and on the other ranks."""
        return SpreadCache(super().cache().layers, self.orders, self.orders.new("new"))

    def __call__(self, tokens: mx.array, cache: KVCache) -> mx.array:
        """Read tokens [B, L] as a decoder does, through the layers of all ranks."""
        return self.orders.through(super().__call__(tokens, cache), "read", [cache])

    def decode(self, tokens: mx.array, caches: Sequence[KVCache]) -> Step:
        """Read next tokens [T] as a decoder does, through the layers of all ranks. Where experts are paged, what the
        own layers miss is read before the step goes on."""
        step = super().decode(tokens, caches)
        while step.repeat():
            pass
        step.x = self.orders.through(step.x, "step", caches)
        return step


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
    ring.once()
    ranks, found = Ranks.start(hosts, {"model": lasting_name(folder.path), "memory": memory})
    try:
        _check_alike(ranks, likeness(folder), [said["like"] for said in found])
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
        try:
            joined = ring.join(backend, 0, addresses, rdma)
        except RuntimeError as error:
            raise RankError(f"the ranks cannot be joined over {backend}: {one_line(error)}") from error
        decoder = told[0].load(folder, ends=True, progress=progress)
        ranks.answers()
    except BaseException:
        ranks.end()
        raise
    first = FirstRank(decoder.config, decoder.weights, Orders(ranks, joined))
    return first, joint_plan(folder.config, parts, dtype)


def _addresses(hosts: Sequence[Host], backend: Backend, found: Sequence[Any]) -> list[list[str]]:
    """Return where each rank listens in the ring, or for jaccl where rank 0 does."""
    try:
        own = [ring.free_address(ip) for ip in hosts[0].ips]
    except OSError as error:
        raise RankError(f"{', '.join(hosts[0].ips)}: no address of this machine ({error.strerror})") from error
    return [own, *(said["addresses"] for said in found)] if backend == "ring" else [own[:1]]


def _check_alike(ranks: Ranks, own: dict[str, Any], others: Sequence[dict[str, Any]]) -> None:
    for rank, other in enumerate(others, 1):
        for what, value in own.items():
            if other.get(what) != value:
                theirs, ours = (str(one)[:16] for one in (other.get(what), value))
                raise RankError(
                    f"{ranks.name(rank)} has other {what} ({theirs}) than rank 0 ({ours}); "
                    "install the same version and the same model on all"
                )


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let signals that raise an exception wait until the end of the block. Only the main thread gets them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def keep(number: int, frame: FrameType | None) -> None:
        came.append(number)

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    for number in handlers:
        signal.signal(number, keep)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)
