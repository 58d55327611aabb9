"""Fetch one file: whole and with the right digest, or not at all."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from gptoss_mlx.errors import HubError, StorageError, shown
from gptoss_mlx.files import storage_errors
from gptoss_mlx.hub.part import tidy, unfinished
from gptoss_mlx.hub.plan import HubFile, Plan
from gptoss_mlx.hub.transfer import ChangedError, OnProgress, Settings, Transfer

_CHANGES = 3
"""How often a file may change while it is fetched, before this is an error."""

_READ_BYTES = 8 << 20
DEFAULTS = Settings()


def fetch(
    plan: Plan,
    file: HubFile,
    target: Path,
    *,
    progress: OnProgress = lambda name, done, size: None,
    say: Callable[[str], None] = lambda text: None,
    settings: Settings = DEFAULTS,
) -> int:
    """Bring a planned file to ``target``. Return how many bytes came from the network: 0 if it is there already.

    Until it is whole it lies beside ``target`` as ``NAME.part`` with ``NAME.part.state``. After an error, Ctrl-C or a
    kill they stay, and the next call goes on from there. ``progress`` is called ten times a second and may raise to
    stop. ``say`` gets a line when what was there is thrown away. Do not call this from a running event loop.

    Raises HubError; StorageError if the disk fails or is full, if another process is fetching to ``target``, or if
    another file is there.
    """
    if target.exists() or target.is_symlink():
        _check_same(file, target)
        tidy(target)
        progress(file.name, file.size, file.size)
        return 0
    received = changes = mismatches = 0
    with unfinished(target, file.size, file.digest, settings.piece) as part:
        while True:
            transfer = Transfer(plan, file, part, settings, progress)
            try:
                digest = asyncio.run(transfer.run())
            except ChangedError as error:
                changes += 1
                part.restart()
                if changes == _CHANGES:
                    raise HubError(
                        f"{plan.repo_id}: {file.name} {error}, and changes again and again; try later, or unset "
                        "HF_ENDPOINT"
                    ) from error
                say(shown(f"{file.name}: has changed on the server ({error}), starting over"))
                continue
            finally:
                received += transfer.received
            if digest == file.digest:
                part.publish()
                progress(file.name, file.size, file.size)
                return received
            mismatches += 1
            part.restart()
            if mismatches == 2:
                raise HubError(
                    f"{plan.repo_id}: {file.name} arrived damaged twice (its checksum is not {file.digest[:12]}...); "
                    "check the disk, or try another network"
                )
            say(shown(f"{file.name}: arrived damaged (its checksum is wrong), starting over"))


def _check_same(file: HubFile, target: Path) -> None:
    hasher = file.hasher()
    same = target.is_file() and target.stat().st_size == file.size
    if same:
        with storage_errors(target), open(target, "rb") as stream:
            while block := stream.read(_READ_BYTES):
                hasher.update(block)
    if not same or hasher.hexdigest() != file.digest:
        raise StorageError(f"{target}: is not the file on the Hub; remove it or choose another place")
