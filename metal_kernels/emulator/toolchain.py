"""Chooses the clang that compiles kernels: the system's if it is new enough, or the one in PyPI's ziglang.

Knows every flag of the builds. A compiler qualifies if it compiles a line with all of them.
"""

import functools
import platform
import sys
from dataclasses import replace
from pathlib import Path

from metal_kernels import toolchain as compilers
from metal_kernels.emulator.errors import ToolchainError
from metal_kernels.toolchain import Toolchain

LANGUAGE_FLAGS = (
    *("-std=c++17", "-nostdinc", "-nostdinc++", "-fno-exceptions", "-fno-rtti", "-fno-strict-aliasing"),
    *("-Xclang", "-cl-single-precision-constant", "-Xclang", "-ffloat16-excess-precision=none"),
    *("-ffp-contract=off", "-fno-math-errno", "-fno-finite-loops"),
    *("-Wno-unknown-attributes", "-Wno-c++20-extensions", "-Wno-duplicate-decl-specifier", "-Wno-nontrivial-memcall"),
    *("-Wno-user-defined-literals", "-Wno-reserved-user-defined-literal"),
    "-Wno-unknown-warning-option",
)
"""Metal's literals are float and its half arithmetic has no excess precision. Metal's compiler may contract; ours does
not, so that results do not depend on the compiler. Kernels may read one buffer through pointers of different types. An
endless loop must not be removed."""
CODE_FLAGS: tuple[str, ...] = ("-fPIC", "-ftrivial-auto-var-init=pattern")
"""Unset private variables hold a pattern, so that using one shows (runtime.cpp)."""

if sys.platform == "linux":
    CODE_FLAGS += ("-fstack-clash-protection",)  # so that a stack that grows in leaps meets the guard below it

MACHINE_FLAGS = ("-mavx2", "-mfma", "-mf16c") if platform.machine() in ("x86_64", "AMD64") else ()
"""With these, half conversions and fma are instructions, not calls into a library that may be missing."""
HOOK_FLAGS = (
    *("-fsanitize=thread", "-mllvm", "-tsan-instrument-func-entry-exit=0"),
    *("-mllvm", "-tsan-compound-read-before-write", "-fno-vectorize", "-fno-slp-vectorize"),
)
"""Instrumentation of the checked modes."""
PLACE_FLAGS = ("-gline-tables-only", "-mllvm", "-hoist-common-insts=false", "-mllvm", "-sink-common-insts=false")
"""Keep two equal statements in two branches two places."""
UNDEFINED_FLAGS = (
    "-fsanitize=bounds,alignment,null,shift,integer-divide-by-zero,float-cast-overflow,signed-integer-overflow,return,unreachable",
    "-fstrict-flex-arrays=3",  # an array of one at a struct's end has one element, which C compilers ignore by default
)

NO_PASSES = ("-Xclang", "-disable-llvm-passes")

NATIVE = Path(__file__).resolve().parent / "native"
"""The runtime and the shims."""
PRELUDE = '#include "metal/prelude.h"\n'
"""Comes before every kernel."""
INLINE_ALL = "#pragma clang attribute push(__attribute__((always_inline, nomerge)), apply_to = function)\n"
INLINE_END = "#pragma clang attribute pop\n"
"""Between these two, every function is inlined, as on GPUs, and no two calls are merged: a helper called in two
branches is two places."""
METAL_HEADERS = (
    *("metal_stdlib", "metal_atomic", "metal_common", "metal_compute", "metal_integer", "metal_limits"),
    *("metal_logging", "metal_math", "metal_simdgroup", "metal_simdgroup_matrix", "metal_type_traits", "metal_types"),
)
"""The names under which kernels may include metal_stdlib or parts of it."""
SYSTEM_NAMES = ("clang++", *(f"clang++-{version}" for version in range(26, 15, -1)))

_TRIAL = f"{INLINE_ALL}_Float16 square(_Float16 x) {{ return x * x; }}\n{INLINE_END}"
"""A source with a line of each kind the builds rely on."""


def include_flags(work: Path) -> list[str]:
    """Write headers with Metal's names into the folder. Return the flags with which a source finds them and the
    shims."""
    for name in METAL_HEADERS:
        (work / name).write_text('#include "metal/metal.h"\n')
    return [f"-I{work}", f"-I{NATIVE}"]


def qualify(toolchain: Toolchain) -> Toolchain | None:
    """Return the toolchain with its version, or None if it does not take all our flags."""
    flags = (*LANGUAGE_FLAGS, *CODE_FLAGS, *MACHINE_FLAGS, *PLACE_FLAGS, *HOOK_FLAGS, *UNDEFINED_FLAGS)
    if compilers.trial(toolchain.compile, _TRIAL, *flags, "-O1", "-S", "-emit-llvm").returncode:
        return None
    version = toolchain.compile("--version").stdout.splitlines()
    return replace(toolchain, version=version[0] if version else "unknown")


@functools.cache
def find() -> Toolchain:
    """Return the first candidate that qualifies. Raise ToolchainError, which names what to install."""
    for candidate in compilers.candidates(SYSTEM_NAMES):
        if toolchain := qualify(candidate):
            return toolchain
    raise ToolchainError("no usable clang: `pip install ziglang`, or install clang 16 or newer")
