"""The native library of the CPU operations, compiled with sanitizers, and processes in which they watch it."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from metal_kernels.cpu import build
from metal_kernels.toolchain import Toolchain
from tests.test_imports import ROOT

FLAGS = (
    *(*build.FLAGS, "-O1", "-g", "-fno-omit-frame-pointer"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
)
LINKS = (("-shared-libasan",), ())
"""Clang's way to share a runtime, and g++'s."""
RUNTIMES = ("libasan.so", "libclang_rt.asan-x86_64.so", "libclang_rt.asan-aarch64.so", "libclang_rt.asan.so")
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0",  # Python keeps much until it ends
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "PYTHONMALLOC": "malloc",  # so that each of Python's blocks has guards
}
BEGIN = "from pathlib import Path\nfrom metal_kernels.cpu import build"


@dataclass(frozen=True)
class Sanitized:
    """The library, and what must be loaded before Python so that the sanitizers see every allocation."""

    library: Path
    preload: str

    def run(self, code: str) -> subprocess.CompletedProcess[str]:
        """Run code in a process in which :func:`build.find` returns this library. It fails with a report at the first
        defect."""
        return subprocess.run(
            [sys.executable, "-c", f"{BEGIN}\nbuild.find = lambda: Path({str(self.library)!r})\n{code}"],
            cwd=ROOT,
            env={**os.environ, **OPTIONS, "LD_PRELOAD": self.preload},
            capture_output=True,
            text=True,
            check=False,
        )


def compile_sanitized(folder: Path) -> Sanitized:
    """Compile the sources into this folder. Skip the test where no compiler has sanitizers."""
    library = folder / "sanitized.so"
    try:
        toolchain = build.compile_library(library, FLAGS, LINKS)
    except build.Absent as reason:
        pytest.skip(f"no sanitizers: {reason}")
    if b"__asan_" not in library.read_bytes():  # ziglang ignores the flag
        pytest.skip(f"no sanitizers: {toolchain.name} has none")
    runtime = next(filter(None, (_file(toolchain, name) for name in RUNTIMES)), None)
    if runtime is None:
        pytest.skip(f"no sanitizers: {toolchain.name} lacks their runtime")
    # MLX throws, and the sanitizer looks for what throws when it is loaded.
    return Sanitized(library, " ".join(filter(None, (runtime, _file(toolchain, "libstdc++.so.6")))))


def _file(toolchain: Toolchain, name: str) -> str | None:
    """Return the path of a file of the compiler's, which answers with the bare name if it has none."""
    path = toolchain.drive(f"-print-file-name={name}").stdout.strip()
    return path if os.path.isabs(path) else None
