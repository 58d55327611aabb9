"""Read the beginnings of files on the Hub into memory: what their headers say, and how fast bytes come."""

import asyncio
import time
from collections.abc import Mapping

import httpx2

from gptoss_mlx.errors import HubError
from gptoss_mlx.hub.faults import ON_THE_WAY, Place, RefusedError, ShortError
from gptoss_mlx.hub.fetch import DEFAULTS
from gptoss_mlx.hub.links import Link, Links
from gptoss_mlx.hub.plan import HubFile, Plan
from gptoss_mlx.hub.transfer import Settings, client_for, wait_after

_RATE_BYTES, _RATE_SECONDS = 16 << 20, 1.5


def read_beginnings(
    plan: Plan, wanted: Mapping[HubFile, int], *, settings: Settings = DEFAULTS
) -> dict[HubFile, bytes]:
    """Return the first bytes of planned files, as many of each as ``wanted`` says and it has. Raises HubError.

    Do not call this from a running event loop.
    """
    return asyncio.run(_read_all(plan, wanted, settings))


def measure_rate(plan: Plan, file: HubFile, *, settings: Settings = DEFAULTS) -> float:
    """Return the bytes per second at which one connection gets a file, from at most 16 MiB and 1.5 s of it.

    Raises HubError. Do not call this from a running event loop.
    """
    return asyncio.run(_measure(plan, file, settings))


async def _read_all(plan: Plan, wanted: Mapping[HubFile, int], settings: Settings) -> dict[HubFile, bytes]:
    most_at_once = asyncio.Semaphore(settings.ranges)
    async with client_for(_place(plan), settings) as client:

        async def read(file: HubFile, nbytes: int) -> bytes:
            async with most_at_once:
                return await _read(client, plan, file, min(nbytes, file.size), settings)

        found = await asyncio.gather(*(read(file, nbytes) for file, nbytes in wanted.items()))
    return dict(zip(wanted, found, strict=True))


async def _measure(plan: Plan, file: HubFile, settings: Settings) -> float:
    async with client_for(_place(plan), settings) as client:
        begun = time.monotonic()
        data = await _read(client, plan, file, min(_RATE_BYTES, file.size), settings, begun + _RATE_SECONDS)
        return len(data) / max(time.monotonic() - begun, 1e-6)


def _place(plan: Plan, file: HubFile | None = None) -> Place:
    return Place(plan.repo_id, plan.endpoint, plan.commit, file.name if file else None)


async def _read(
    client: httpx2.AsyncClient, plan: Plan, file: HubFile, nbytes: int, settings: Settings, until: float | None = None
) -> bytes:
    """Return the first ``nbytes`` of a file, or fewer when the clock reads ``until``."""
    if nbytes == 0:
        return b""  # a range of no bytes cannot be asked for
    links = Links(plan, file)
    failures = 0
    while True:
        link = None
        try:
            link = await links.get()
            return await _get(client, link, file, nbytes, until)
        except ON_THE_WAY as error:
            failures += 1
            if await wait_after(error, _place(plan, file), failures, settings) and link is not None:
                links.drop(link)


async def _get(client: httpx2.AsyncClient, link: Link, file: HubFile, nbytes: int, until: float | None) -> bytes:
    data = bytearray()
    async with client.stream("GET", link.url, headers=link.headers | {"Range": f"bytes=0-{nbytes - 1}"}) as response:
        if response.status_code not in (200, 206):
            raise RefusedError(response.status_code, response.headers, link.host, link.from_hub)
        # An answer of 200 is the whole file, whose beginning is what was asked for.
        size = response.headers.get("Content-Range", "").rpartition("/")[2]
        if response.status_code == 206 and size != str(file.size):
            raise HubError(
                f"{link.host}: {file.name} has {size or 'an unknown number of'} bytes there, not {file.size}"
            )
        async for block in response.aiter_raw():
            data += block
            if len(data) >= nbytes or (until is not None and time.monotonic() > until):
                return bytes(data[:nbytes])
    raise ShortError("the answer ended too early")
