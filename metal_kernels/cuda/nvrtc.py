"""NVRTC by ctypes: CUDA C++ to a cubin, and what the cubin needs of a GPU. It needs none itself.

The library is in PyPI's nvidia-cuda-nvrtc, which need not be in the environment that runs.
"""

import ctypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ARCHITECTURE = "sm_90"
"""Of an H100, on which the shaders were first measured."""
LIBRARY = "libnvrtc.so.13"
OPTIONS = ("--std=c++17", "--device-as-default-execution-space", "--fmad=false", "--ptxas-options=-v", "-w")
"""As in the emulator, only what the source says is fused, so that results do not depend on the compiler."""


class Absent(Exception):
    """There is no NVRTC here. ``str()`` names what to do."""


class CompileError(Exception):
    """The source did not compile. ``str()`` is NVRTC's log."""


@dataclass(frozen=True)
class Compiled:
    """A cubin, the registers of a thread, and the bytes of its memory that it needs beside them: stack and spills."""

    cubin: bytes
    registers: int
    local_bytes: int


def compiled(
    source: str, nvrtc: ctypes.CDLL, architecture: str = ARCHITECTURE, options: Sequence[str] = OPTIONS
) -> Compiled:
    """Compile a source with one entry for a GPU such as "sm_90". Raise CompileError."""
    program = ctypes.c_void_p()
    _check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"shader.cu", 0, None, None))
    try:
        every = [option.encode() for option in (f"--gpu-architecture={architecture}", *options)]
        failed = nvrtc.nvrtcCompileProgram(program, len(every), (ctypes.c_char_p * len(every))(*every))
        log = _taken(nvrtc, program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
        if failed:
            raise CompileError(log)
        registers = re.search(r"Used (\d+) registers", log)
        memory = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
        if not registers or not memory:
            raise CompileError(f"NVRTC does not tell registers: {log}")
        return Compiled(_taken(nvrtc, program, "CUBIN"), int(registers[1]), max(map(int, memory.groups())))
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def version(nvrtc: ctypes.CDLL) -> str:
    """Return NVRTC's version."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return f"{major.value}.{minor.value}"


def _taken(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    room = ctypes.create_string_buffer(size.value)
    _check(getattr(nvrtc, f"nvrtcGet{what}")(program, room))
    return room.raw


def _check(status: int) -> None:
    if status:
        raise CompileError(f"NVRTC failed with status {status}")


def load(site: Path) -> ctypes.CDLL:
    """Return the NVRTC that is installed in a folder of Python packages. Raise Absent."""
    folder = site / "nvidia" / "cu13" / "lib"
    builtins = sorted(folder.glob("libnvrtc-builtins.so.*"))
    found = sorted(folder.glob("libnvrtc.so.*"))
    if not builtins or not found:
        raise Absent(f"no NVRTC in {site}: run `make .venv-cuda/.ready`, on Linux")
    ctypes.CDLL(str(builtins[-1]), mode=ctypes.RTLD_GLOBAL)  # NVRTC looks for it by name
    return ctypes.CDLL(str(found[-1]))
