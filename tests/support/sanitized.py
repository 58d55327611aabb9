"""The native library of the CPU operations, compiled with sanitizers, and processes in which they watch it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest

from metal_kernels.cpu import build
from metal_kernels.toolchain import Toolchain
from tests.test_imports import ROOT

FLAGS = (*build.FLAGS, "-O1", "-g", "-fno-omit-frame-pointer", "-fno-sanitize-recover=all")
BEGIN = "from pathlib import Path\nfrom metal_kernels.cpu import build"
TIGHT = {
    "if (bytes <= size) return base;": "if (bytes == size) return base;",
    "size = (bytes + bytes / 4 + 4095) & ~size_t(4095);": "size = bytes;",
    "base = static_cast<char*>(aligned_alloc(4096, size));": "if (posix_memalign((void**)&base, 64, size)) base = 0;",
}
"""Changes of ``threads.h``: its buffers have as many bytes as each operation asks for, and no more."""


@dataclass(frozen=True)
class Sanitizer:
    """What to compile with, what to load before Python, and the environment of a process."""

    checks: str
    mark: bytes  # found in a library that has the checks
    links: tuple[tuple[str, ...], ...]
    runtimes: tuple[str, ...]
    environment: Mapping[str, str]


ADDRESSES = Sanitizer(
    "address,undefined",
    b"__asan_",
    (("-shared-libasan",), ()),  # clang's way to share a runtime, and g++'s
    ("libasan.so", "libclang_rt.asan-x86_64.so", "libclang_rt.asan-aarch64.so", "libclang_rt.asan.so"),
    {
        # Python keeps much until it ends. What is not written is NaN.
        "ASAN_OPTIONS": "detect_leaks=0:max_malloc_fill_size=1000000000:malloc_fill_byte=255",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",  # so that each of Python's blocks has guards
    },
)
THREADS = Sanitizer(
    "thread",
    b"__tsan_",
    (("-shared-libsan",), ()),
    ("libtsan.so", "libclang_rt.tsan-x86_64.so", "libclang_rt.tsan-aarch64.so", "libclang_rt.tsan.so"),
    {"TSAN_OPTIONS": "halt_on_error=1"},
)
NOT_OURS = "race:libmlx.so\ncalled_from_lib:libmlx.so\n"
"""MLX's own threads, which are not compiled with the checks."""


@dataclass(frozen=True)
class Sanitized:
    """The library, and the environment of processes in which the sanitizers see every allocation and every thread."""

    library: Path
    environment: Mapping[str, str]

    def run(self, code: str) -> subprocess.CompletedProcess[str]:
        """Run code in a process in which :func:`build.find` returns this library. It fails with a report at the first
        defect."""
        return subprocess.run(
            [sys.executable, "-c", f"{BEGIN}\nbuild.find = lambda: Path({str(self.library)!r})\n{code}"],
            cwd=ROOT,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=False,
        )


def compile_sanitized(folder: Path, sanitizer: Sanitizer = ADDRESSES) -> Sanitized:
    """Compile the sources into this folder. Skip the test where no compiler has the sanitizer."""
    library = folder / "sanitized.so"
    try:
        toolchain = build.compile_library(library, (*FLAGS, f"-fsanitize={sanitizer.checks}"), sanitizer.links)
    except build.Absent as reason:
        pytest.skip(f"no sanitizers: {reason}")
    if sanitizer.mark not in library.read_bytes():  # ziglang ignores the flag
        pytest.skip(f"no sanitizers: {toolchain.name} has none")
    runtime = next(filter(None, (_file(toolchain, name) for name in sanitizer.runtimes)), None)
    if runtime is None:
        pytest.skip(f"no sanitizers: {toolchain.name} lacks their runtime")
    # MLX throws, and the sanitizer looks for what throws when it is loaded.
    loaded = " ".join(filter(None, (runtime, _file(toolchain, "libstdc++.so.6"))))
    (folder / "not_ours").write_text(NOT_OURS)
    environment = {
        name: f"{value}:suppressions={folder / 'not_ours'}" if name.startswith("TSAN") else value
        for name, value in sanitizer.environment.items()
    }
    made = Sanitized(library, {**environment, "LD_PRELOAD": loaded})
    if (tried := made.run("")).returncode:
        pytest.skip(f"no sanitizers: {tried.stderr.strip().splitlines()[-1]}")
    return made


def compile_tight(folder: Path) -> Sanitized:
    """Compile the sources with sanitizers, and with buffers of exactly the size that an operation asks for."""
    native = folder / "native"
    shutil.copytree(build.NATIVE, native)
    text = (native / "threads.h").read_text()
    for was, now in TIGHT.items():
        assert text.count(was) == 1, f"threads.h has no longer {was!r}: change TIGHT"
        text = text.replace(was, now)
    (native / "threads.h").write_text(text)
    with mock.patch.object(build, "NATIVE", native):
        return compile_sanitized(folder)


def _file(toolchain: Toolchain, name: str) -> str | None:
    """Return the path of a file of the compiler's, which answers with the bare name if it has none."""
    path = toolchain.drive(f"-print-file-name={name}").stdout.strip()
    return path if os.path.isabs(path) else None
