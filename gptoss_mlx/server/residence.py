"""Which of the served models is in memory, and who uses it.

One model at a time. A request that names another waits until no reply is under way, and those that come after it wait
behind it. A model that nobody uses for a while is unloaded. Knows no HTTP and no requests.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import ModelNotInstalledError
from gptoss_mlx.published import published_name
from gptoss_mlx.runtime import Runtime
from gptoss_mlx.server.owner import Owner, Rows


@dataclass(frozen=True)
class Loaded:
    """A model in memory, its batch, and the bytes that the caches of one row of it may take, None for any number.

    ``planned`` is what it may take in all.
    ``leave`` is called on the owner's thread before the model is unloaded.
    """

    runtime: Runtime
    rows: Rows
    memory: int | None
    planned: int = 0
    leave: Callable[[], None] = lambda: None


class Residence:
    """The models ``names``, of which the first is the default.

    ``load`` is called on the owner's thread with a name.
    ``unload`` is called there when nothing holds the model any more.
    """

    def __init__(
        self,
        owner: Owner,
        names: Sequence[str],
        load: Callable[[str], Loaded],
        unload: Callable[[], None] = lambda: None,
    ) -> None:
        self.names = tuple(names)
        self.present: str | None = None
        self.configs: dict[str, ModelConfig] = {}  # of the models that have been in memory
        self._owner = owner
        self._load = load
        self._unload = unload
        self._loaded: Loaded | None = None
        self._turn = asyncio.Lock()
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()
        self._last_used = time.monotonic()

    @property
    def planned(self) -> int:
        """Return the bytes that the model in memory may take."""
        return self._loaded.planned if self._loaded is not None else 0

    def resolve(self, wanted: str | None) -> str:
        """Return the served model that ``wanted`` means. Where only one is served, every name means it. Raises
        ModelNotInstalledError with the names there are."""
        if wanted is None:
            return self.present or self.names[0]
        if len(self.names) == 1:
            return self.names[0]
        if wanted in self.names:
            return wanted
        name = published_name(wanted)
        if name in self.names:
            return name
        raise ModelNotInstalledError(f"no model {wanted[:80]!r} is served here; there are {', '.join(self.names)}")

    @asynccontextmanager
    async def lease(self, wanted: str | None) -> AsyncIterator[tuple[str, Loaded]]:
        """Have the model ``wanted`` in memory inside the block, and give its name. Raises what ``resolve`` and loading
        raise."""
        name = self.resolve(wanted)
        async with self._turn:
            if self.present != name:
                await self._unused.wait()
                await _to_its_end(self._swap(name))
            self._users += 1
            self._unused.clear()
            loaded = self._loaded
        assert loaded is not None
        try:
            yield name, loaded
        finally:
            self._users -= 1
            self._last_used = time.monotonic()
            if not self._users:
                self._unused.set()

    async def unload_when_idle(self, seconds: float) -> None:
        """Unload a model that nobody has used for ``seconds``, again and again."""
        while True:
            left = self._last_used + seconds - time.monotonic()
            await asyncio.sleep(max(left, 0.05) if self.present and not self._users else seconds)
            async with self._turn:
                if not self._users and self.present and time.monotonic() - self._last_used >= seconds:
                    await _to_its_end(self._swap(None))

    async def close(self) -> None:
        """Leave the model that is in memory. Nothing may use it any more."""
        if self._loaded is not None:
            await asyncio.wrap_future(self._owner.do(self._loaded.leave))

    async def _swap(self, name: str | None) -> None:
        leave = self._loaded.leave if self._loaded is not None else None
        self.present = self._loaded = None

        def work() -> Loaded | None:
            nonlocal leave
            if leave is not None:
                leave()
            leave = None  # it may hold the model
            self._owner.use(None)
            self._unload()
            if name is None:
                return None
            loaded = self._load(name)
            self._owner.use(loaded.rows)
            self.configs[name] = loaded.runtime.config
            return loaded

        self._loaded = await asyncio.wrap_future(self._owner.do(work))
        self.present = name
        self._last_used = time.monotonic()


async def _to_its_end(work: Coroutine[None, None, None]) -> None:
    """Wait for ``work`` even if the waiting is cancelled, so that no other swap begins meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise
