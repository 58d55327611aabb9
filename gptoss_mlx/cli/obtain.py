"""Get a model that is not installed: from a copy that another program has on this machine, or from the Hub.

The user is told what it takes and asked first.
"""

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convert import Report
    from convert.remote import Remote


def local_copy(name: str, destination: Path, dense: str, yes: bool) -> Path | None:
    """Return the copy of a published model on this machine that shall be converted to ``destination``, None for a
    download.

    The user chooses at a terminal. With ``yes`` a copy with the published weights is taken, and one whose weights were
    rounded is not. Raises ModelNotInstalledError if the user wants neither.
    """
    from rich.filesize import decimal

    from convert.local import find_local
    from gptoss_mlx.cli.terminal import answer_to, at_terminal
    from gptoss_mlx.errors import ModelNotInstalledError, shown

    copies = find_local(name)
    if yes:
        whole = [copy for copy in copies if not copy.losses]
        if whole:
            print(shown(f"{name}: converting {whole[0].path}, {whole[0].kind}"), file=sys.stderr)
        return whole[0].path if whole else None
    if not copies:
        return None
    lines = [f"{copy.kind}, {decimal(copy.nbytes)}{''.join(f'; {loss}' for loss in copy.losses)}" for copy in copies]
    if not at_terminal():
        option = f" --dense {dense}" if dense != "q8" else ""
        raise ModelNotInstalledError(
            f"{name} is not installed, but this machine has {lines[0]}; to convert it, run: "
            f"gptoss-mac convert {shlex.quote(str(copies[0].path))} --out {shlex.quote(str(destination))}{option}"
        )
    print(f"{name} is not installed, but this machine has", file=sys.stderr)
    for number, line in enumerate(lines, 1):
        print(shown(f"  {number}  {line}"), file=sys.stderr)
    print("  d  none of these: download it", file=sys.stderr)
    while True:
        answer = answer_to("Convert which? [1] ").lower() or "1"
        if answer == "d":
            return None
        if answer in ("n", "no", "q"):
            raise ModelNotInstalledError(f"{name} is not installed; run: gptoss-mac convert {name}")
        if answer.isdecimal() and 1 <= int(answer) <= len(copies):
            return copies[int(answer) - 1].path


def obtain(repo_id: str, destination: Path, *, dense: str = "q8", keep: Path | None = None, yes: bool) -> "Report":
    """Download and convert a checkpoint after the user has agreed. ``yes``: do not ask.

    Raises ModelNotInstalledError without a terminal to ask at, or if the user does not agree; HubError, StorageError
    and CheckpointError as ``look`` and ``convert_remote`` do.
    """
    from convert.arriving import Watch, convert_remote
    from convert.remote import look
    from gptoss_mlx.cli.progress import download_progress
    from gptoss_mlx.cli.terminal import agreed, at_terminal, between_calls
    from gptoss_mlx.errors import HubError, ModelNotInstalledError, StorageError
    from gptoss_mlx.hub import Settings

    alone = not yes and not at_terminal()
    try:
        remote = look(
            repo_id,
            destination,
            dense=dense,
            keep=keep,
            settings=Settings(attempts=1, timeout=10) if alone else Settings(),
        )
    except HubError as error:
        if alone:
            raise ModelNotInstalledError(f"{_name(repo_id)} is not installed, and cannot be got: {error}") from error
        raise
    text = takes(remote)
    if remote.most - remote.taken > _free(destination):
        raise StorageError(f"{text}: too little; free some space, or name another place with GPTOSS_MAC_HOME or --out")
    if yes:
        print(text, file=sys.stderr)
    elif not agreed(f"{text}. Do it now?"):
        raise ModelNotInstalledError(f"{text}; to do it, run: {remote.head.command(destination)} --yes")
    with download_progress(remote.plan.nbytes) as show, between_calls(show.converting) as stoppable:
        return convert_remote(remote, Watch(show.fetching, stoppable, show.say))


def takes(remote: "Remote") -> str:
    """Return in one sentence what getting a model takes."""
    from rich.filesize import decimal

    from gptoss_mlx.errors import shown

    plan = remote.plan
    left = decimal(plan.nbytes - remote.there)
    more = f"{left} more, {decimal(remote.there)} are here," if remote.there else left
    return shown(
        f"{_name(plan.repo_id)} is not installed; getting it takes a download of {more} from {plan.endpoint}/"
        f"{plan.repo_id} ({_duration(remote.seconds)} at {decimal(int(remote.rate))}/s) and {decimal(remote.most)} of "
        f"disk at the most, {decimal(remote.after)} afterwards ({decimal(_free(remote.destination))} are free)"
    )


def _name(repo_id: str) -> str:
    from gptoss_mlx.published import published_name

    return published_name(repo_id) or repo_id


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"about {minutes} min" if minutes < 90 else f"about {minutes / 60:.1f} h"


def _free(destination: Path) -> int:
    """Return the free bytes where a folder will be, whose parents may be missing."""
    folder = destination.absolute().parent
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
