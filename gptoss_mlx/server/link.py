"""The socket through which programs of this user have the server's model generate ids: the other end of ``link``.

A connection asks for any number of things at once, each a task that ends with the connection. Rows join those of HTTP
requests. Knows no text and no HTTP.
"""

import asyncio
import bisect
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx

from gptoss_mlx.arguments import whole
from gptoss_mlx.config import ModelConfig
from gptoss_mlx.engine.batching import Row
from gptoss_mlx.engine.constraint import Constraint
from gptoss_mlx.errors import EngineError, GptOssError, UsageError, quoted
from gptoss_mlx.home import home_dir
from gptoss_mlx.link.protocol import (
    MAX_LINE,
    PATH_BYTES,
    VERSION,
    Message,
    from_error,
    from_line,
    lock_path,
    socket_path,
    to_line,
)
from gptoss_mlx.memory.caches import cache_bytes
from gptoss_mlx.reply import Ended as Reason
from gptoss_mlx.sampling import Sampling
from gptoss_mlx.server.exchange import log_failure
from gptoss_mlx.server.owner import Broken, Event, Finished, Order, Token
from gptoss_mlx.server.residence import Loaded
from gptoss_mlx.server.service import Service
from gptoss_mlx.traits import model_hash

PROGRESS_SECONDS = 0.1
"""How often a client hears how much of its prompt has been read."""

HELLO_SECONDS = 5.0
"""The longest to wait for a client's first line."""

MOST_REQUESTS = 4096
"""What one connection may ask for at once."""

Send = Callable[[Message], Awaitable[None]]


class IdReader:
    """Stands for a ReplyReader where the ids themselves are wanted."""

    over = said = False

    def feed(self, id: int) -> list[Event]:
        """Return the id as an event."""
        return [Token(id)]

    def end(self, ended: Reason) -> list[Event]:
        """Return that no id follows."""
        return [Finished(ended)]

    def finish(self, ended: Reason, cached: int) -> None:
        """Return nothing: the client reads the reply."""


class Link:
    """Gives ``service``'s models to programs of this user. ``folder`` returns a served model's folder. Nothing begins
    any more once ``ending`` returns True. ``rows`` counts what is under way. ``http`` says where HTTP is served."""

    def __init__(
        self, service: Service, folder: Callable[[str], Path], ending: Callable[[], bool], http: Message
    ) -> None:
        self.rows = 0
        self._http = http
        self._service = service
        self._folder = folder
        self._ending = ending
        self._clients: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def listening(self) -> AsyncIterator[str | None]:
        """Listen inside the block. Yields why not, or None if it does: another server of this user may listen, or no
        socket may have so long a path."""
        path = socket_path()
        if len(os.fsencode(path)) > PATH_BYTES:
            yield f"{path} is too long for a socket: run, chat and batch load a model of their own"
            return
        try:
            home_dir().mkdir(parents=True, exist_ok=True)
            lock = os.open(lock_path(), os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            yield f"{path.parent}: cannot be written ({error.strerror}): run, chat and batch load a model of their own"
            return
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield "another server's model is used by run, chat and batch"
                return
            path.unlink(missing_ok=True)
            before = os.umask(0o177)
            try:
                server = await asyncio.start_unix_server(self._connected, path, limit=MAX_LINE)
            finally:
                os.umask(before)
            async with server:
                yield None
                for client in self._clients:
                    client.cancel()
                await asyncio.gather(*self._clients, return_exceptions=True)
                path.unlink(missing_ok=True)
        finally:
            os.close(lock)

    async def drain(self, hurried: Callable[[], bool]) -> None:
        """Wait until nothing is under way, or ``hurried``."""
        while self.rows and not hurried():
            await asyncio.sleep(0.02)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            await self._serve(reader, writer)
        except (OSError, ValueError, asyncio.IncompleteReadError, TimeoutError):
            pass  # it left, or is no client of ours
        except asyncio.CancelledError:
            pass  # the server ends; asyncio before Python 3.12 prints a traceback for a cancelled connection
        finally:
            self._clients.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def send(message: Message) -> None:
            writer.write(to_line(message))
            await writer.drain()

        async with asyncio.timeout(HELLO_SECONDS):
            hello = from_line(await reader.readline())
        await send({"version": VERSION, "pid": os.getpid(), "models": self._models()} | self._http)
        if hello.get("version") != VERSION:
            return
        tasks: dict[int, asyncio.Task[None]] = {}
        try:
            while line := await reader.readline():
                message = from_line(line)
                id = message.get("id")
                if message.get("do") == "end":
                    if isinstance(id, int) and id in tasks:
                        tasks[id].cancel()
                elif not isinstance(id, int) or id in tasks or len(tasks) >= MOST_REQUESTS:
                    return
                else:
                    tasks[id] = asyncio.create_task(self._answer(id, message, send))
                    tasks[id].add_done_callback(partial(_forget, tasks, id))
        finally:
            for task in list(tasks.values()):
                task.cancel()

    def _models(self) -> list[Message]:
        """Return the served models, the one in memory first."""
        residence = self._service.residence
        found = []
        for name in sorted(residence.names, key=lambda name: name != residence.present):
            with contextlib.suppress(OSError, GptOssError):
                folder = self._folder(name).absolute()
                found.append({"name": name, "folder": str(folder), "hash": model_hash(folder)})
        return found

    async def _answer(self, id: int, message: Message, send: Send) -> None:
        """Do what a message asks for, and say what came of it."""

        async def say(answer: Message) -> None:
            await send({"id": id} | answer)

        try:
            does = {"generate": _generate, "open": _open, "reusable": _reusable, "score": _score}
            do = does.get(message.get("do", ""))
            if do is None:
                raise UsageError(f"the server cannot {quoted(message.get('do'), 40)}")
            if self._ending():
                raise EngineError("the server is ending; run the command again once it has")
            wanted = message.get("model")
            if not isinstance(wanted, str) or wanted not in self._service.residence.names:
                raise UsageError(f"{quoted(wanted, 40)} is no model of this server")
            self.rows += 1
            try:
                async with self._service.residence.lease(wanted) as (_, loaded):
                    await do(self._service, loaded, message, say)
            finally:
                self.rows -= 1
        except OSError:
            pass
        except Exception as error:
            if not isinstance(error, GptOssError):
                log_failure(error)
            with contextlib.suppress(OSError):
                await say({"error": from_error(error)})


def _forget(tasks: dict[int, asyncio.Task[None]], id: int, done: asyncio.Task[None]) -> None:
    tasks.pop(id, None)


async def _open(service: Service, loaded: Loaded, message: Message, say: Send) -> None:
    config = loaded.runtime.config
    most = config.max_position_embeddings
    if loaded.memory is not None:
        dtype = loaded.runtime.model.weights.dtype
        most = bisect.bisect_right(range(most + 1), loaded.memory, key=partial(_row_bytes, config, dtype)) - 1
    await say({"value": {"context": config.max_position_embeddings, "row_tokens": most}})


def _row_bytes(config: ModelConfig, dtype: mx.Dtype, positions: int) -> int:
    return cache_bytes(config, positions, dtype)


async def _reusable(service: Service, loaded: Loaded, message: Message, say: Send) -> None:
    runtime = loaded.runtime
    prompt = _ids(message, "prompt", runtime.config.vocab_size)
    count = service.owner.do(lambda: runtime.reusable(runtime.context(), prompt))
    await say({"value": await asyncio.wrap_future(count)})


async def _score(service: Service, loaded: Loaded, message: Message, say: Send) -> None:
    ids = _ids(message, "ids", loaded.runtime.config.vocab_size)
    top = whole("top", message.get("top"), 0, "a whole number, 0 or more")
    scores = await service.scores(loaded, ids, top)
    await say({"scores": [[score.logprob, score.likeliest] for score in scores if score is not None]})


async def _generate(service: Service, loaded: Loaded, message: Message, say: Send) -> None:
    runtime = loaded.runtime
    size = runtime.config.vocab_size
    prompt = _ids(message, "prompt", size)
    limit = whole("max_tokens", message.get("max_tokens"), 1, "a whole number, 1 or more")
    stop = frozenset(_ids(message, "stop", size, least=0))
    shared = tuple(_ids(message, "shared", len(prompt) + 1, least=0))
    try:
        sampling = Sampling(**message["sampling"])
    except (KeyError, TypeError) as error:
        raise UsageError(f"sampling is {quoted(message.get('sampling'))}") from error
    constraint: Constraint | None = None
    if message.get("constraint") is not None:
        from gptoss_mlx.grammars.grammar import Grammar

        grammar = Grammar.from_text(message["constraint"])
        constraint = await asyncio.to_thread(runtime.constraint, grammar)

    def make(id: Hashable) -> Row:
        return Row(id, prompt, runtime.context(), limit, sampling, stop, shared=shared, constraint=constraint)

    told: asyncio.Queue[Event] = asyncio.Queue()
    order = Order(service.owner.new_id(), make, IdReader(), told.put_nowait)
    read = 0
    try:
        await asyncio.wrap_future(service.owner.add(order))
        while True:
            try:
                async with asyncio.timeout(PROGRESS_SECONDS):
                    events = [await told.get()]
            except TimeoutError:
                now = min(len(row.context.ids), len(prompt)) if (row := order.row) is not None else 0
                if now != read and not order.ids:
                    read = now
                    await say({"read": read})
                continue
            while not told.empty():
                events.append(told.get_nowait())
            ids = [event.id for event in events if isinstance(event, Token)]
            finished = next((event.reason for event in events if isinstance(event, Finished)), None)
            if broken := next((event.error for event in events if isinstance(event, Broken)), None):
                raise broken
            if ids:
                await say({"tokens": ids, "cached": order.cached, "finished": finished})
            if finished is not None:
                return
    finally:
        service.owner.remove(order.id)


def _ids(message: Message, name: str, size: int, least: int = 1) -> list[int]:
    """Return the field ``name``, whole numbers below ``size``, at least ``least`` of them. Raises UsageError."""
    given: Iterable[Any] = message.get(name) or ()
    if isinstance(given, list) and len(given) >= least and all(type(id) is int and 0 <= id < size for id in given):
        return given
    if given == () and least == 0:
        return []
    raise UsageError(f"{name} must be a list of ids below {size:,}")
