"""Finds C++ compilers: those on the PATH, and the clang in PyPI's ziglang. Knows nobody's flags.

A trial decides, not a version number: who needs a compiler lets each candidate compile a few lines with every flag that
the build uses.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Toolchain:
    """A compiler: the command of the bare one, the command of one with headers and linker, and its version."""

    compiler: tuple[str, ...]
    driver: tuple[str, ...]
    version: str = "unknown"

    @property
    def name(self) -> str:
        """The name to show: ``ziglang``, or the program's file name."""
        return "ziglang" if "ziglang" in self.driver else Path(self.driver[0]).name

    def compile(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run the bare compiler, which takes preprocessed sources and intermediate text."""
        return _run([*self.compiler, *map(str, arguments)])

    def drive(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run the compiler with the system's headers and linker."""
        return _run([*self.driver, *map(str, arguments)])


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "LC_ALL": "C"},  # callers look for the word "error" in the messages
        check=False,
    )


def candidates(names: Iterable[str]) -> Iterator[Toolchain]:
    """Yield the compilers of these names that are on the PATH, in this order, then ziglang if it is installed."""
    for name in names:
        if path := shutil.which(name):
            yield Toolchain((path,), (path,))
    if importlib.util.find_spec("ziglang"):
        zig = (sys.executable, "-m", "ziglang")
        # `zig c++` has headers and a linker, but no -fsyntax-only; `zig clang` is clang itself. Without baseline,
        # `zig c++` uses whatever the processor of this machine offers.
        yield Toolchain((*zig, "clang", "--driver-mode=g++"), (*zig, "c++", "-mcpu=baseline"))


def trial(
    run: Callable[..., subprocess.CompletedProcess[str]], text: str, *flags: str
) -> subprocess.CompletedProcess[str]:
    """Return how ``run``, a toolchain's ``compile`` or ``drive``, fared with a source of this text and these flags.

    The source comes before the flags, so that libraries among them can be linked to it.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "trial.cpp"
        source.write_text(text)
        return run(source, *flags, "-o", f"{folder}/trial.out")
