"""Builds the native library of the CPU operations with a compiler that this machine has, and finds it again.

Knows the sources in ``native``, the flags, and where a library can be. Knows no operation and loads nothing. Imports
neither mlx nor numpy, because a wheel is built where they are not installed.

Run as ``python -m metal_kernels.cpu.build`` to build it ahead of time.
"""

import json
import os
import platform
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from metal_kernels import build_cache
from metal_kernels.toolchain import Toolchain, candidates, trial

KIND = "cpu"
"""The name of the folder in the cache."""
NATIVE = Path(__file__).resolve().parent / "native"
"""The sources: ``library.cpp``, and the headers that it includes."""
PACKAGED = Path(__file__).resolve().with_name("libgptoss_cpu.so")
"""The library that an installed wheel brings."""
FLAGS = (
    *("-std=c++17", "-O3", "-fPIC", "-shared", "-fno-exceptions", "-fno-rtti", "-fno-math-errno"),
    *("-fvisibility=hidden", "-pthread"),
)
"""There is no -march: the sources choose by target attributes, so that one library serves every processor."""
LINKS = (
    ("-Wl,-z,defs,--as-needed", "-nostdlib++", "-lm", "-lpthread"),
    ("-Wl,-z,defs,--as-needed", "-nodefaultlibs", "-lm", "-lpthread", "-lgcc", "-lc"),
)
"""Ways to link without the C++ runtime library, and to refuse sources that need it. g++ has the first from 13 on.
ziglang also takes the second, but then builds libraries for a minute."""
COMPILERS = (
    *("g++", *(f"g++-{version}" for version in range(16, 10, -1))),
    *("clang++", *(f"clang++-{version}" for version in range(26, 13, -1)), "c++"),
)
"""The names to try, the best first."""
COMMAND = "python -m metal_kernels.cpu.build"
"""What messages tell to run."""
RETRY = 24 * 3600
"""Seconds after which a build that failed may be tried again, since a disk may have been full."""

TRIAL = """
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
static void* run(void* of) { return of; }
extern "C" __attribute__((visibility("default"))) int start(pthread_t* thread) {
  return pthread_create(thread, nullptr, run, nullptr);
}
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,avx512f,avx512bw,avx512vl"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512vl")
#endif
typedef float lanes __attribute__((vector_size(64), aligned(4), may_alias));
template <class F> static inline __attribute__((always_inline)) float all(const F& f) { return f(1.0f); }
static float wide(const float* x) {
  const __m512i codes = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)x));
  return all([&](float y) { return (*(const lanes*)x * (lanes)_mm512_cvtepi32_ps(codes) + y)[0]; });
}
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
extern "C" __attribute__((visibility("default"))) float sum(const float* x) {
  unsigned a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_AVX512F) ? wide(x) : expf(*x);
}
#endif
"""
"""A source with a line of each kind that ours rely on."""

_ERROR = re.compile("error:|undefined reference|undefined symbol")
_FOLDER = re.compile(r"\S*/(?=[\w.]+\.(?:cpp|h):)")
"""What stands before the name of a source in a message."""


class Absent(Exception):
    """The native library cannot be had. ``str()`` is one line: the reason, and the remedy if there is one."""


def find() -> Path:
    """Return the library: a wheel's own, or the one in the cache, which is built now if the sources are new.

    Starts no process if there is one. Raises Absent. A build that failed is not tried again for a day unless a source
    or a compiler has come or gone; :func:`build` always tries.
    """
    if PACKAGED.is_file():
        return PACKAGED
    place = _place()
    if build_cache.use(place):
        return place
    if reason := _failure(place):
        raise Absent(reason)
    return build()


def build() -> Path:
    """Return the library in the cache. Build it if it is not there. Raise Absent."""
    final = _place()
    if build_cache.use(final):
        return final
    try:
        with build_cache.workshop(KIND) as work:
            try:
                compile_library(work / "library.so")
            except Absent as reason:
                note = {"compilers": _compilers(), "reason": str(reason)}
                (work / "note").write_text(json.dumps(note))
                (work / "note").replace(_note(final))
                raise
            (work / "library.so").replace(final)
    except OSError as error:
        raise Absent(f"it cannot be built: {error}") from error
    return final


def compile_library(target: Path, flags: Sequence[str] = FLAGS, links: Sequence[Sequence[str]] = LINKS) -> Toolchain:
    """Compile the sources to a library at ``target``. Return the compiler that did it.

    The first compiler that passes the trial is used, with the first of ``links`` that it takes. Raises Absent, and
    OSError if a compiler cannot be started.
    """
    _refuse_other_systems()
    toolchain, link = _choose(flags, links)
    done = toolchain.drive(NATIVE / "library.cpp", *flags, *link, "-o", target)
    if done.returncode:
        raise Absent(f"it does not compile ({_first_error(toolchain, done.stderr)})")
    return toolchain


def _choose(flags: Sequence[str], links: Sequence[Sequence[str]]) -> tuple[Toolchain, Sequence[str]]:
    remedy = f"install g++ 11 or newer, then run `{COMMAND}`"
    refusals = []
    for toolchain in candidates(COMPILERS):
        for link in links:
            done = trial(toolchain.drive, TRIAL, *flags, *link)
            if not done.returncode:
                return toolchain, link
        refusals.append(_first_error(toolchain, done.stderr))
    if refusals:
        raise Absent(f"no usable C++ compiler ({refusals[0]}): {remedy}")
    raise Absent(f"no C++ compiler: {remedy}")


def _first_error(toolchain: Toolchain, stderr: str) -> str:
    lines = [_FOLDER.sub("", line.strip()) for line in stderr.splitlines() if line.strip()]
    first = next(filter(_ERROR.search, lines), lines[-1] if lines else "it failed without a word")
    return f"{toolchain.name}: {first.removeprefix(f'{toolchain.name}: ')}"


def _refuse_other_systems() -> None:
    if sys.platform != "linux":
        raise Absent(f"not built on {'macOS' if sys.platform == 'darwin' else sys.platform}")


def _place() -> Path:
    """Return where the cache has the library of these sources, for this machine. Raise Absent if not on Linux.

    The compiler is not a part of the name, because finding out what it is would take a process.
    """
    _refuse_other_systems()
    machine = os.uname().machine, *platform.libc_ver()  # a home can be shared by machines
    return build_cache.place(KIND, ".so", build_cache.digest(NATIVE), FLAGS, LINKS, *machine)


def _note(place: Path) -> Path:
    """Return the path of the note that this library could not be built."""
    return place.with_suffix(".failed")


def _failure(place: Path) -> str | None:
    """Return why this library could not be built lately with the compilers that are there now, if so."""
    try:
        if time.time() - _note(place).stat().st_mtime > RETRY:
            return None
        note = json.loads(_note(place).read_text())
    except (OSError, ValueError):
        return None
    return note["reason"] if note["compilers"] == _compilers() else None


def _compilers() -> list[str]:
    return [os.path.realpath(toolchain.driver[0]) for toolchain in candidates(COMPILERS)]


def main() -> None:
    """Build the library unless there is one. Print what was done, or why there is none, in one line."""
    start = time.perf_counter()
    try:
        if PACKAGED.is_file() or _place().is_file():
            done = "already there"
        else:
            build()
            done = f"built in {time.perf_counter() - start:.1f} s"
    except Absent as reason:
        done = f"none, {reason}"
    except KeyboardInterrupt:
        sys.exit(130)
    print(f"native CPU library: {done}")


if __name__ == "__main__":
    main()
