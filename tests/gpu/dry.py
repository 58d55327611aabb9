"""Stands in for the GPU where there is none: memory of the host, kernels in the emulator, all times 1.

It gets a launch as a card gets it, in cubins, blocks and addresses, and refuses one that CUDA would not have. So a plan
can be run whole, at small sizes, before a card is lent: ``python -m tests.gpu.dry``.
"""

import bisect
import ctypes
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from metal_kernels.comparison import Shapes
from metal_kernels.cuda.nvrtc import ARCHITECTURE
from metal_kernels.emulator.arrays import BFloat16
from metal_kernels.emulator.kernel import run_function
from metal_kernels.emulator.runner import Buffer
from tests.gpu import bench, scenes
from tests.gpu.driver import Launch
from tests.gpu.plan import Plan
from tests.metal_kernels.shaders.dense_rows import UNIFORM

NOWHERE = Path("no folder")
SMALL = Shapes(
    **{"hidden": 576, "inter": 320, "experts": 16, "heads": 16, "kv_heads": 2, "window": 128, "vocabulary": 1024}
)
"""Sizes at which each kernel that is timed at the published ones is chosen too, with eight heads to a key."""
KEYS = (1024, 8192)
ENOUGH = 300_000
"""Bytes of copies, so that there are several."""
MOST_THREADS = 1024
ALIGNED = 256
POISONED = 1 << 24
"""Bytes of new memory that are spoilt. What plain reads go over is larger, and not read here."""


@dataclass(frozen=True)
class DryKernel:
    """A kernel by its name."""

    name: str
    registers: int = 0
    local_bytes: int = 0


class DryGpu:
    """What ``driver.Gpu`` offers, without a card, for the kernels of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._kernels = plan.kernels
        self._tools = {name: tool for tool, name in plan.tools.items()}
        self._held: dict[int, np.ndarray] = {}
        self.launched: list[Launch] = []

    @property
    def about(self) -> dict[str, Any]:
        """Return what stands for a card."""
        return {"card": "none: emulated", "architecture": ARCHITECTURE, "memory": 0, "L2": 0, "driver": "none"}

    def room(self, nbytes: int) -> int:
        """Return the address of new memory, aligned as a card's."""
        whole = np.empty(max(nbytes, 1) + ALIGNED, np.uint8)
        start = -whole.ctypes.data % ALIGNED
        array = whole[start : start + max(nbytes, 1)]
        array[:POISONED] = 0xA5
        self._held[array.ctypes.data] = array
        return array.ctypes.data

    def put(self, array: np.ndarray, address: int | None = None) -> int:
        """Copy an array to memory."""
        array = np.ascontiguousarray(array)
        where = self.room(array.nbytes) if address is None else address
        ctypes.memmove(where, array.ctypes.data, array.nbytes)
        return where

    def get(self, address: int, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
        """Return a copy of memory."""
        return self._from(address)[: prod(shape) * dtype.itemsize].copy().view(dtype).reshape(shape)

    def free(self) -> None:
        """Free all memory."""
        self._held.clear()

    def wait(self) -> None:
        """Nothing is pending."""

    def kernel(self, cubin: Path) -> DryKernel:
        """Return the kernel of a plan."""
        assert cubin.stem in self._kernels, cubin
        return DryKernel(cubin.stem)

    def launch(self, launch: Launch) -> None:
        """Run a kernel in the emulator."""
        self.launched.append(launch)
        assert prod(launch.threads) <= MOST_THREADS, launch
        assert all(side > 0 for side in (*launch.blocks, *launch.threads)), launch
        name = launch.kernel.name  # type: ignore[attr-defined]
        if (tool := self._tools.get(name)) is not None:
            if tool == "fill":
                self._fill(*launch.arguments)
            return
        built = self._kernels[name]
        assert built.function is not None
        function = built.function
        if "make_uniform" in function.source:
            function = replace(function, source=UNIFORM + function.source)
        names = [parameter.name for parameter in function.parameters if parameter.kind == "buffer"]
        numbers = [int(name) for name in names] if names[0].isdigit() else range(len(names))
        unused = np.zeros(16, np.uint8)
        buffers = [Buffer("unused", unused)] * (max(numbers) + 1)  # MLX's kernels leave numbers out
        for number, argument in zip(numbers, launch.arguments, strict=True):
            if isinstance(argument, bytes):
                array = np.frombuffer(argument, np.uint8).copy()
            else:
                array = self._from(argument) if argument else unused
            buffers[number] = Buffer(str(number), array, 1)
        grid = tuple(a * b for a, b in zip(launch.blocks, launch.threads, strict=True))
        constants = dict.fromkeys(_constants(function.source), False) | dict(built.constants)
        run_function(
            function,
            name,
            grid,
            launch.threads,
            buffers,
            mode="fast",
            linted=False,
            as_written=False,
            constants=constants,
        )

    def timed(self, launches: Sequence[Launch], least: int = 1) -> tuple[float, float]:
        """Run each launch once."""
        for launch in launches:
            self.launch(launch)
        return 1.0, 0.0

    def _from(self, address: int) -> np.ndarray:
        """Return the memory from an address to the end of its allocation."""
        starts = sorted(self._held)
        start = starts[bisect.bisect_right(starts, address) - 1]
        array = self._held[start][address - start :]
        assert array.size, "an address that was never allocated"
        return array

    def _fill(self, at: int, *rest: bytes) -> None:
        """Do what native/fill.cu does, with other random numbers."""
        types = ("u8", "u4", "i4", "f4", "f4")
        count, seed, kind, low, high = (np.frombuffer(b, t)[0] for b, t in zip(rest, types, strict=True))
        rng = np.random.default_rng(int(seed))
        between = low + (high - low) * rng.random(int(count), np.float32)
        made = {
            0: lambda: rng.integers(0, 1 << 32, int(count), np.uint32),
            1: lambda: between.astype(np.uint8),
            2: lambda: between.astype(np.float32),
            3: lambda: between.astype(np.float16),
            4: lambda: BFloat16.of(between).bits,
            5: lambda: np.full(int(count), 0xFFFFFFFF, np.uint32),
        }[int(kind)]()
        assert made.nbytes <= self._from(at).nbytes
        ctypes.memmove(at, made.ctypes.data, made.nbytes)


def _constants(source: str) -> list[str]:
    """Return the names of a source's function constants."""
    return re.findall(r"constant\s+(?:bool|int|float)\s+(\w+)\s*\[\[function_constant", source)


def small_scenes(plan: Plan, **options: Any) -> list[scenes.Scene]:
    """Return the scenes of a small model as they are read from a bundle. ``options`` are those of ``scenes``."""
    every = scenes.scenes(plan, SMALL, **{"keys": KEYS, "enough": ENOUGH} | options)
    return json.loads(json.dumps(list(every)))


def main() -> None:
    plan = Plan()
    gpu = DryGpu(plan)
    wrong = 0
    for scene in small_scenes(plan):
        for line in bench.measured(gpu, NOWHERE, scene, plan.tools):
            wrong += not line["right"]
            errors = ", ".join(
                f"{name} {error:.0e} of {allowed:.0e}" for name, (error, allowed) in line["errors"].items()
            )
            print(f"{line['scene']}, {line['variant']}: {errors or 'not compared'}{'' if line['right'] else ': WRONG'}")
    for q8 in (True, False):
        step = json.loads(json.dumps(scenes.step(plan, replace(SMALL, q8=q8), 4, KEYS[0])))
        done = bench.step(gpu, NOWHERE, step, plan.tools)
        print(f"a step of {done['step']}: {done['launches']} launches, {done['bytes']} bytes")
    sys.exit(f"{wrong} wrong" if wrong else 0)


if __name__ == "__main__":
    main()
