"""An NVIDIA GPU by its driver alone: memory, kernels, launches, and launches replayed as a graph. Needs numpy.

The driver's library comes with every NVIDIA GPU and nowhere else, so that it is absent tells that there is none.
"""

import ctypes
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ENTRY = b"entry"
NEEDED = "The shaders' GPU test needs Linux with an NVIDIA GPU and its driver"
REPEATS = 9
"""Timings, of which the median counts."""
WARM = 2
"""Replays of a graph before it is timed."""
Triple = tuple[int, int, int]
VALUES = {"int": "i", "uint": "I", "float": "f", "size_t": "Q", "int64_t": "q", "bool": "?"}
"""The letters of numpy for the types of arguments that are passed by value."""
_CAPABILITY = (75, 76)
_MULTIPROCESSORS = 16
_L2_BYTES = 38
_REGISTERS = 4
_LOCAL_BYTES = 3
"""Numbers of attributes in cuda.h, of a device and of a function."""


class NoGpu(Exception):
    """There is no NVIDIA GPU here. ``str()`` says what was looked for."""


class DriverError(Exception):
    """The driver refused a call. ``str()`` names the call and the reason."""


@dataclass(frozen=True)
class Kernel:
    """A loaded cubin: its function, registers, and the bytes of memory that a thread needs beside them."""

    function: ctypes.c_void_p
    registers: int
    local_bytes: int


@dataclass(frozen=True)
class Launch:
    """A kernel with its arguments in order: each an address or the bytes of a value."""

    kernel: Kernel
    blocks: Triple
    threads: Triple
    arguments: tuple[int | bytes, ...]


class Gpu:
    """The first NVIDIA GPU. Raises NoGpu."""

    def __init__(self) -> None:
        try:
            self._cu = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise NoGpu("this machine has no NVIDIA driver (libcuda.so.1)") from error
        count = ctypes.c_int()
        if self._cu.cuInit(0) or self._cu.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
            raise NoGpu("the NVIDIA driver of this machine finds no GPU")
        self._device = ctypes.c_int()
        self._do("cuDeviceGet", ctypes.byref(self._device), 0)
        context = ctypes.c_void_p()
        self._do("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._do("cuCtxSetCurrent", context)
        self._stream = ctypes.c_void_p()
        self._do("cuStreamCreate", ctypes.byref(self._stream), 0)  # 0: launches wait for copies, which have no stream
        self._held: list[int] = []
        self._kernels: dict[Path, Kernel] = {}

    @property
    def about(self) -> dict[str, Any]:
        """Return the card's name, architecture, memory, multiprocessors and L2 bytes, and the driver's version."""
        name = ctypes.create_string_buffer(100)
        self._do("cuDeviceGetName", name, 100, self._device)
        version = ctypes.c_int()
        self._do("cuDriverGetVersion", ctypes.byref(version))
        total = ctypes.c_size_t()
        self._do("cuDeviceTotalMem_v2", ctypes.byref(total), self._device)
        return {
            "card": name.value.decode(),
            "architecture": "sm_{}{}".format(*map(self._attribute, _CAPABILITY)),
            "memory": total.value,
            "multiprocessors": self._attribute(_MULTIPROCESSORS),
            "L2": self._attribute(_L2_BYTES),
            "driver": f"{version.value // 1000}.{version.value % 1000 // 10}",
        }

    def room(self, nbytes: int) -> int:
        """Return the address of new memory, aligned to 256 bytes."""
        address = ctypes.c_uint64()
        self._do("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(nbytes, 1)))
        self._held.append(address.value)
        return address.value

    def put(self, array: np.ndarray, address: int | None = None) -> int:
        """Copy an array to the card, into new memory if no address is given. Return its address."""
        array = np.ascontiguousarray(array)
        where = self.room(array.nbytes) if address is None else address
        self._do("cuMemcpyHtoD_v2", ctypes.c_uint64(where), ctypes.c_void_p(array.ctypes.data), _size(array.nbytes))
        return where

    def get(self, address: int, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
        """Return a copy of memory of the card, after all that was launched."""
        array = np.empty(shape, dtype)
        self.wait()
        self._do("cuMemcpyDtoH_v2", ctypes.c_void_p(array.ctypes.data), ctypes.c_uint64(address), _size(array.nbytes))
        return array

    def free(self) -> None:
        """Free all memory."""
        self.wait()
        for address in self._held:
            self._do("cuMemFree_v2", ctypes.c_uint64(address))
        self._held.clear()

    def kernel(self, cubin: Path) -> Kernel:
        """Return the kernel of a cubin's file."""
        if cubin not in self._kernels:
            module = ctypes.c_void_p()
            self._do("cuModuleLoadData", ctypes.byref(module), cubin.read_bytes())
            function = ctypes.c_void_p()
            self._do("cuModuleGetFunction", ctypes.byref(function), module, ENTRY)
            found = []
            for number in (_REGISTERS, _LOCAL_BYTES):
                value = ctypes.c_int()
                self._do("cuFuncGetAttribute", ctypes.byref(value), number, function)
                found.append(value.value)
            self._kernels[cubin] = Kernel(function, *found)
        return self._kernels[cubin]

    def launch(self, launch: Launch) -> None:
        """Launch a kernel after what was launched before."""
        held = [
            ctypes.c_uint64(each) if isinstance(each, int) else ctypes.create_string_buffer(each, len(each))
            for each in launch.arguments
        ]
        pointers = (ctypes.c_void_p * len(held))(*(ctypes.addressof(each) for each in held))
        sizes = map(ctypes.c_uint, (*launch.blocks, *launch.threads, 0))
        self._do("cuLaunchKernel", launch.kernel.function, *sizes, self._stream, pointers, None)

    def wait(self) -> None:
        """Wait for all that was launched."""
        self._do("cuStreamSynchronize", self._stream)

    def timed(self, launches: Sequence[Launch], least: int = 1) -> tuple[float, float]:
        """Return microseconds of all launches, and the spread of ``REPEATS`` measurements.

        The launches are one graph, repeated until there are ``least``, and their median time is divided by how often.
        """
        times = -(-least // len(launches))
        graph = self._graph([launch for _ in range(times) for launch in launches])
        try:
            for _ in range(WARM):
                self._do("cuGraphLaunch", graph, self._stream)
            self.wait()
            found = sorted(
                self._elapsed(lambda: self._do("cuGraphLaunch", graph, self._stream)) for _ in range(REPEATS)
            )
        finally:
            self._do("cuGraphExecDestroy", graph)
        return found[REPEATS // 2] / times, (found[-1] - found[0]) / times

    def _graph(self, launches: Sequence[Launch]) -> ctypes.c_void_p:
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        self._do("cuStreamBeginCapture_v2", self._stream, 0)
        for launch in launches:
            self.launch(launch)
        self._do("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        self._do("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_uint64(0))
        self._do("cuGraphDestroy", graph)
        return executable

    def _elapsed(self, work: Callable[[], None]) -> float:
        """Return the microseconds that the card needs for what ``work`` launches."""
        events = [ctypes.c_void_p(), ctypes.c_void_p()]
        for event in events:
            self._do("cuEventCreate", ctypes.byref(event), 0)
        self._do("cuEventRecord", events[0], self._stream)
        work()
        self._do("cuEventRecord", events[1], self._stream)
        self._do("cuEventSynchronize", events[1])
        milliseconds = ctypes.c_float()
        self._do("cuEventElapsedTime", ctypes.byref(milliseconds), *events)
        for event in events:
            self._do("cuEventDestroy_v2", event)
        return milliseconds.value * 1e3

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int()
        self._do("cuDeviceGetAttribute", ctypes.byref(value), number, self._device)
        return value.value

    def _do(self, call: str, *arguments: Any) -> None:
        status = getattr(self._cu, call)(*arguments)
        if status:
            text = ctypes.c_char_p()
            self._cu.cuGetErrorString(status, ctypes.byref(text))
            raise DriverError(f"{call}: {text.value.decode() if text.value else status}")


def main() -> None:
    """Name this machine's GPU, or say that there is none, or none of the architecture that is given."""
    try:
        about = Gpu().about
    except NoGpu as error:
        sys.exit(f"not run: {error}. {NEEDED}")
    if about["architecture"] not in sys.argv[1:]:
        sys.exit(f"not run: {about['card']} is {about['architecture']}: add ARCHITECTURE={about['architecture']}")
    print(about["card"])


def _size(nbytes: int) -> ctypes.c_size_t:
    return ctypes.c_size_t(nbytes)


def value(type_: str, number: float | Sequence[float]) -> bytes:
    """Return the bytes of an argument that is passed by value. A sequence is eight of them, padded with zeros."""
    if isinstance(number, int | float):
        return np.array(number, VALUES[type_]).tobytes()
    return np.array([*number, *[0] * (8 - len(number))], VALUES[type_]).tobytes()


if __name__ == "__main__":
    main()
