"""Finding a clang that can compile kernels: the system's if it is new enough, else the one in PyPI's ziglang.

New enough is not a version number but a trial: a compiler qualifies if it compiles a line with every flag the builds
use.
"""

import functools
import importlib.util
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from metal_kernels.emulator.errors import ToolchainError

# Metal's literals are float and its half arithmetic has no excess precision; its compiler may contract, ours must not,
# so that results do not depend on the compiler. Kernels may read one buffer through pointers of different types.
LANGUAGE_FLAGS = (
    *("-std=c++17", "-nostdinc", "-nostdinc++", "-fno-exceptions", "-fno-rtti", "-fno-strict-aliasing"),
    *("-Xclang", "-cl-single-precision-constant", "-Xclang", "-ffloat16-excess-precision=none"),
    *("-ffp-contract=off", "-fno-math-errno"),
    *("-Wno-unknown-attributes", "-Wno-c++20-extensions", "-Wno-duplicate-decl-specifier", "-Wno-nontrivial-memcall"),
    *("-Wno-user-defined-literals", "-Wno-reserved-user-defined-literal"),
    "-Wno-unknown-warning-option",
)
# Private variables nobody set hold a pattern, so that using one shows (runtime.cpp).
CODE_FLAGS = ("-fPIC", "-ftrivial-auto-var-init=pattern")
# With these, half conversions and fma are instructions, not calls into a library that may be missing.
MACHINE_FLAGS = ("-mavx2", "-mfma", "-mf16c") if platform.machine() in ("x86_64", "AMD64") else ()
# Instrumentation of the checked modes. Two equal statements in two branches must stay two places.
HOOK_FLAGS = (
    *("-fsanitize=thread", "-mllvm", "-tsan-instrument-func-entry-exit=0"),
    *("-mllvm", "-tsan-compound-read-before-write", "-fno-vectorize", "-fno-slp-vectorize"),
)
PLACE_FLAGS = ("-gline-tables-only", "-mllvm", "-hoist-common-insts=false", "-mllvm", "-sink-common-insts=false")
UNDEFINED_FLAGS = (
    "-fsanitize=bounds,alignment,null,shift,integer-divide-by-zero,float-cast-overflow,signed-integer-overflow,return,unreachable",
)

SYSTEM_NAMES = ("clang++", *(f"clang++-{version}" for version in range(26, 16, -1)))


# A line of each kind the builds rely on.
_TRIAL = """\
_Float16 square(_Float16 x) { return x * x; }
#pragma clang attribute push(__attribute__((always_inline)), apply_to = function)
#pragma clang attribute pop
"""


@dataclass(frozen=True)
class Toolchain:
    """A compiler: the words that start its C++ command, and what it calls itself."""

    command: tuple[str, ...]
    version: str

    def run(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.command, *arguments], capture_output=True, text=True, cwd=cwd, check=False)


def candidates() -> Iterator[tuple[str, ...]]:
    """Commands worth trying, best first."""
    for name in SYSTEM_NAMES:
        if path := shutil.which(name):
            yield (path,)
    if importlib.util.find_spec("ziglang"):
        yield (sys.executable, "-m", "ziglang", "c++")


def qualify(command: tuple[str, ...]) -> Toolchain | None:
    """The toolchain, if the command takes all our flags."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "trial.cpp"
        source.write_text(_TRIAL)
        toolchain = Toolchain(command, "")
        flags = (*LANGUAGE_FLAGS, *CODE_FLAGS, *MACHINE_FLAGS, *PLACE_FLAGS, *HOOK_FLAGS, *UNDEFINED_FLAGS)
        trial = toolchain.run(*flags, "-O1", "-S", "-emit-llvm", "-o", f"{folder}/trial.ll", str(source))
        if trial.returncode:
            return None
        version = toolchain.run("--version").stdout.splitlines()
    return Toolchain(command, version[0] if version else "unknown")


@functools.cache
def find() -> Toolchain:
    """The first candidate that qualifies. Raises ToolchainError, with what to install."""
    for command in candidates():
        if toolchain := qualify(command):
            return toolchain
    raise ToolchainError("no usable clang: `pip install ziglang`, or install clang 17 or newer")
