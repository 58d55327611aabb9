"""Loads a compiled kernel and runs it over a grid: the ctypes side of native/runtime.cpp. Knows no source."""

import ctypes
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from metal_kernels.emulator.arrays import unset_pattern
from metal_kernels.emulator.build import Library, Mode
from metal_kernels.emulator.cover import reached_lines
from metal_kernels.emulator.errors import CallError
from metal_kernels.emulator.report import BufferUse, Finding, FindingKind, Place, Report

MAX_BUFFERS = 64
MAX_FINDINGS = 64
MAX_THREADS_PER_THREADGROUP = 1024
ORDERS = {"forward": 0, "reversed": 1, "shuffled": 2}
Order = Literal["forward", "reversed", "shuffled"]


class _Argument(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_uint64),
        ("writable", ctypes.c_uint32),
        ("element_size", ctypes.c_uint32),
        ("unset_mask", ctypes.c_uint64),
        ("unset", ctypes.c_uint64),
    )


class _Options(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint32) for name in ("check", "count_lines", "order", "seed", "seconds", "flush_subnormals")
    )


_TOTALS = (
    *("threads", "threadgroups", "switches", "threadgroup_barriers", "simdgroup_barriers", "simd_operations"),
    *("threadgroup_memory", "threadgroup_loads", "threadgroup_bytes_read"),
    *("threadgroup_stores", "threadgroup_bytes_written", "waits"),
)


class _Totals(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in _TOTALS)


_USE = ("loads", "bytes_issued", "unique_bytes", "lines", "stores", "bytes_stored", "unique_bytes_stored")


class _BufferUse(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in _USE)


class _Finding(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("kind", "site", "other_site", "times", "line", "column")),
        ("file", ctypes.c_char * 128),
        ("text", ctypes.c_char * 256),
    )


_FINDING_KINDS = tuple(FindingKind)
"""The kinds by their numbers in native/state.h. A run has no finding of number 0, LINT."""


@dataclass(frozen=True)
class Buffer:
    """One buffer of a run. ``role`` is 0 for an input, 1 for an output that starts initialised, 2 for one that does
    not.

    An output with a ``dtype`` is searched for values that came from unset memory.
    """

    name: str
    data: np.ndarray
    role: Literal[0, 1, 2] = 0
    dtype: str | None = None


_loaded: dict[str, tuple[ctypes.CDLL, threading.Lock]] = {}
_loading = threading.Lock()


def _load(library: Library) -> tuple[ctypes.CDLL, threading.Lock]:
    with _loading:
        key = str(library.path)
        if key not in _loaded:
            _loaded[key] = (ctypes.CDLL(key), threading.Lock())
        return _loaded[key]


def run(
    library: Library,
    kernel: str,
    mode: Mode,
    grid: Sequence[int],
    threadgroup: Sequence[int],
    buffers: Sequence[Buffer],
    *,
    order: Order = "forward",
    seed: int = 1,
    seconds: int = 600,
    flush_subnormals: bool = False,
    constants: dict[str, bool | int | float] | None = None,
) -> tuple[Report, bool]:
    """Run every thread of the grid, and write outputs into the buffers' arrays.

    Returns the report and whether the run finished. A run is stopped after ``seconds`` of CPU time. ``constants`` sets
    function constants by name. Raises CallError for a grid, a threadgroup or buffers that exceed a limit.
    """
    if len(grid) != 3 or len(threadgroup) != 3 or min(grid) < 1 or min(threadgroup) < 1:
        raise CallError(f"{kernel}: grid {tuple(grid)} and threadgroup {tuple(threadgroup)} need three positive sizes")
    size = [min(t, g) for t, g in zip(threadgroup, grid, strict=True)]  # as MLX dispatches
    if int(np.prod(size)) > MAX_THREADS_PER_THREADGROUP:
        raise CallError(f"{kernel}: a threadgroup of {int(np.prod(size))} threads; 1024 is the limit")
    if len(buffers) > MAX_BUFFERS:
        raise CallError(f"{kernel}: {len(buffers)} buffers; {MAX_BUFFERS} is the limit")
    count = len(buffers)
    loaded, lock = _load(library)
    u32x3 = ctypes.c_uint32 * 3
    given = [(b.data.ctypes.data, b.data.nbytes, b.role, b.data.itemsize, *unset_pattern(b.dtype)) for b in buffers]
    arguments = (_Argument * count)(*(_Argument(*fields) for fields in given))
    totals = _Totals()
    uses = (_BufferUse * count)()
    findings = (_Finding * MAX_FINDINGS)()
    found = ctypes.c_uint32()
    options = _Options(mode == "check", mode == "count", ORDERS[order], seed, seconds, flush_subnormals)
    with lock:
        for name, value in (constants or {}).items():
            kind = {bool: ctypes.c_bool, int: ctypes.c_int, float: ctypes.c_float}[type(value)]
            kind.in_dll(loaded, name).value = value  # type: ignore[attr-defined]
        start = time.perf_counter()
        sizes = (u32x3(*grid), u32x3(*size))
        results = (ctypes.byref(totals), uses, findings, ctypes.byref(found))
        counted = mode in ("count", "check")
        failed = loaded.emu_run(*sizes, arguments, count, counted, ctypes.byref(options), *results)
        elapsed = time.perf_counter() - start
        marks = bytes((ctypes.c_uint8 * len(library.blocks)).in_dll(loaded, "emu_reached"))
    report = Report(kernel, mode, elapsed)
    for name in _TOTALS:
        if name != "switches":
            setattr(report, name, getattr(totals, name))
    for buffer, use in zip(buffers, uses, strict=True):
        report.buffers[buffer.name] = BufferUse(buffer.name, buffer.data.nbytes, *(getattr(use, name) for name in _USE))
    if library.blocks:
        report.lines, report.lines_reached = reached_lines(library.blocks, marks)
    report.findings = [_finding(findings[i], library, buffers) for i in range(found.value)]
    return report, not failed


def _finding(raw: _Finding, library: Library, buffers: Sequence[Buffer]) -> Finding:
    place = library.sites[raw.site] if raw.site < len(library.sites) else Place()
    if raw.line and (not place.line or not raw.site):
        place = Place(raw.file.decode(), raw.line, raw.column)
    message = raw.text.decode()
    for index in range(len(buffers) - 1, -1, -1):  # "buffer 12" before "buffer 1"
        message = message.replace(f"buffer {index}", f"'{buffers[index].name}'")
    other = library.sites[raw.other_site] if raw.other_site else None
    return Finding(_FINDING_KINDS[raw.kind], place, message, other, raw.times)
