"""Bring the missing bytes of one file into its ``Part``: several ranges at once, resumed when a connection breaks.

Ranges arrive out of order, and hashlib reads in order only. So a thread follows the bytes that are there without a hole
and reads them back, mostly from the system's cache. After a restart of the process it reads from the beginning of the
file, because hashlib cannot save what it has read.
"""

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
from huggingface_hub import constants

from gptoss_mlx.errors import HubError
from gptoss_mlx.hub.faults import IN_AN_ADDRESS, ON_THE_WAY, Place, RefusedError, ShortError, fault_of, pause
from gptoss_mlx.hub.links import Link, Links
from gptoss_mlx.hub.part import Part
from gptoss_mlx.hub.plan import HubFile, Plan

OnProgress = Callable[[str, int, int], None]
"""Gets a file's name, how many of its bytes are there, and its size."""

_TICK_SECONDS = 0.1
_HASH_BYTES = 8 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


@dataclass(frozen=True)
class Settings:
    """``ranges`` at once, of ``piece`` bytes each; a range fails after ``attempts`` without a byte, with pauses that
    grow from ``first_pause`` seconds; ``timeout`` is the longest silence in seconds, None: HF_HUB_DOWNLOAD_TIMEOUT."""

    ranges: int = 4
    piece: int = 64 << 20
    attempts: int = 6
    first_pause: float = 1.0
    timeout: float | None = None


class ChangedError(Exception):
    """The server has other content now than the bytes that are there are from."""


def client_for(place: Place, settings: Settings) -> httpx2.AsyncClient:
    """Return a client, a context. Raises HubError for the address of a proxy that cannot be used."""
    seconds = settings.timeout or float(constants.HF_HUB_DOWNLOAD_TIMEOUT)
    try:
        return httpx2.AsyncClient(timeout=seconds, follow_redirects=True)
    except (*IN_AN_ADDRESS, httpx2.InvalidURL) as error:
        raise HubError(fault_of(error, place).text) from error


async def wait_after(error: Exception, place: Place, failures: int, settings: Settings) -> bool:
    """Wait after one of ON_THE_WAY, the ``failures``-th in a row. Return whether a new link may help.

    Raises HubError if another attempt is of no use.
    """
    fault = fault_of(error, place)
    if not fault.passing or failures >= settings.attempts:
        raise HubError(fault.text) from error
    await asyncio.sleep(pause(fault, failures, settings.first_pause))
    return fault.stale


class Transfer:
    """One run. ``received`` counts the bytes that came, whether or not they were kept."""

    def __init__(self, plan: Plan, file: HubFile, part: Part, settings: Settings, progress: OnProgress) -> None:
        self._place = Place(plan.repo_id, plan.endpoint, plan.commit, file.name)
        self._file, self._part, self._settings, self._progress = file, part, settings, progress
        self._links = Links(plan, file)
        self._grown = asyncio.Event()
        self.received = 0

    async def run(self) -> str:
        """Return the hexdigest of the file when all bytes are there. Raises HubError, StorageError, ChangedError, and
        what ``progress`` raises. It is called ten times a second, also while nothing comes."""
        try:
            async with client_for(self._place, self._settings) as client, asyncio.TaskGroup() as group:
                ticking = group.create_task(self._tick())
                hashing = group.create_task(self._hash())
                waiting = iter([i for i in range(len(self._part.counts)) if self._missing(i)])
                for _ in range(self._settings.ranges):
                    group.create_task(self._work(client, waiting))
                digest = await hashing
                ticking.cancel()
        except BaseExceptionGroup as group_error:
            first = group_error.exceptions[0]
            raise first from first.__cause__
        return digest

    async def _tick(self) -> None:
        while True:
            self._progress(self._file.name, self._part.nbytes, self._file.size)
            await asyncio.sleep(_TICK_SECONDS)

    async def _hash(self) -> str:
        hasher = self._file.hasher()
        done = 0
        while done < self._file.size:
            # Whole blocks, because a thread that reads each few bytes fights the event loop for the interpreter.
            block = min(_HASH_BYTES, self._file.size - done)
            if self._part.contiguous() - done >= block:
                await asyncio.to_thread(self._hash_block, hasher, done, block)
                done += block
            else:
                self._grown.clear()
                await self._grown.wait()
        return hasher.hexdigest()

    def _hash_block(self, hasher: Any, offset: int, size: int) -> None:
        while size:
            block = self._part.read(offset, size)
            if not block:
                raise ChangedError("another program has shortened the unfinished file")
            hasher.update(block)
            offset, size = offset + len(block), size - len(block)

    async def _work(self, client: httpx2.AsyncClient, waiting: Iterator[int]) -> None:
        for index in waiting:
            failures = 0
            while self._missing(index):
                before = self._part.counts[index]
                link = None
                try:
                    link = await self._links.get()
                    await self._fetch(client, link, index)
                except ON_THE_WAY as error:
                    failures = 1 if self._part.counts[index] > before else failures + 1
                    if await wait_after(error, self._place, failures, self._settings) and link is not None:
                        self._links.drop(link)

    def _missing(self, index: int) -> bool:
        begin, end = self._part.span(index)
        return begin < end

    async def _fetch(self, client: httpx2.AsyncClient, link: Link, index: int) -> None:
        begin, end = self._part.span(index)
        headers = dict(link.headers)
        if begin > 0 or end < self._file.size:  # else a plain request, because a mirror may not know ranges
            headers["Range"] = f"bytes={begin}-{end - 1}"
            if self._part.etag is not None:
                headers["If-Range"] = self._part.etag
        async with client.stream("GET", link.url, headers=headers) as response:
            self._check(response, link, index)
            async for data in response.aiter_raw():
                self.received += len(data)
                begin, end = self._part.span(index)
                room = end - begin
                self._part.write(index, data[:room])
                self._grown.set()
                if len(data) > room:  # it sends more than it was asked for
                    break
        if self._missing(index):
            raise ShortError("the answer ended too early")

    def _check(self, response: httpx2.Response, link: Link, index: int) -> None:
        """Raise if the answer's bytes do not belong where they will be written."""
        begin, end = self._part.span(index)
        if response.status_code == 416:
            raise ChangedError(f"has no bytes {begin} to {end}")
        if response.status_code not in (200, 206):
            raise RefusedError(response.status_code, response.headers, link.host, link.from_hub)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise ShortError("the answer is compressed, though that was not asked for")
        etag = response.headers.get("ETag", "")
        if self._part.etag is None and etag.startswith('"'):  # a weak one (W/) does not promise equal bytes
            self._part.name_content(etag)
        elif self._part.etag is not None and etag and etag != self._part.etag:
            raise ChangedError(f"is {etag} now, was {self._part.etag}")
        if response.status_code == 206:
            given = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if given is None or int(given[1]) != begin:
                raise ShortError(f"the answer has other bytes than {begin} to {end}")
            size = int(given[3])
        elif len(self._part.counts) > 1:
            raise HubError(f"{link.host}: cannot send a part of a file; unset HF_ENDPOINT, or use another proxy")
        else:
            size = int(response.headers.get("Content-Length", self._file.size))
            if begin:
                self._part.forget(index)
        if size != self._file.size:
            raise ChangedError(f"has {size} bytes now, not {self._file.size}")
