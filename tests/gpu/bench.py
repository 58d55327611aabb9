"""Times scenes on one card and looks whether each variant computes what it should. Needs numpy and the driver.

Launches follow each other over copies of the weights that are larger than the L2 together, replayed as one graph; the
median of nine counts. Ours have their norm, bias, RoPE, SwiGLU and residual in them; MLX's are the bare product.
"""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from tests.gpu import expected
from tests.gpu.driver import Gpu, Launch, value

NUMPY = {"float32": "f4", "float16": "f2", "bfloat16": "u2", "uint32": "u4", "int32": "i4", "uint8": "u1"}
KINDS = {"uint8": 1, "float32": 2, "float16": 3, "bfloat16": 4}
"""What native/fill.cu draws, by dtype."""
BITS, ONES = 0, 5
FEWEST = 16
"""Launches in a graph, at least."""
WINDOW = 1 << 31
"""Bytes over which plain reads go."""
MOST_READS = 512
"""Plain reads that follow each other: of small pieces as many as scenes have copies."""


def float32(bits: np.ndarray) -> np.ndarray:
    """Return bfloat16, given as bits, as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


class Filled:
    """A scene's arrays on the card."""

    def __init__(self, gpu: Gpu, folder: Path, scene: Mapping[str, Any], tools: Mapping[str, str]) -> None:
        self._gpu = gpu
        self._folder = folder
        self._scene = scene
        self._fill = gpu.kernel(folder / f"{tools['fill']}.cubin")
        self._bits: dict[str, np.ndarray] = {}
        self.places: dict[str, list[int]] = {}
        for seed, (name, array) in enumerate(scene["arrays"].items(), 1):
            self.places[name] = [self._made(array, copy, 1000 * seed + copy) for copy in range(array["copies"])]

    def _made(self, array: Mapping[str, Any], copy: int, seed: int) -> int:
        kind, *numbers = array["fill"]
        dtype = np.dtype(NUMPY[array["dtype"]])
        count = prod(array["shape"])
        if kind == "data":
            return self._gpu.put(np.array(numbers[0][copy], dtype).reshape(array["shape"]))
        address = self._gpu.room(-(-count * dtype.itemsize // 4) * 4)
        if kind in ("bits", "unset"):
            number, count, low, high = BITS if kind == "bits" else ONES, -(-count * dtype.itemsize // 4), 0, 0
        else:
            number, (low, high) = KINDS[array["dtype"]], numbers
        arguments = (address, value("size_t", count), value("uint", seed), value("int", number))
        blocks = min(4096, -(-count // 256))
        ends = (value("float", low), value("float", high))
        self._gpu.launch(Launch(self._fill, (blocks, 1, 1), (256, 1, 1), (*arguments, *ends)))
        return address

    def read(self, name: str, rows: np.ndarray | None = None) -> np.ndarray:
        """Return an array of the first copy, or some of its rows. What launches do not write is fetched once."""
        array = self._scene["arrays"][name]
        bits = self._bits.get(name)
        if bits is None:
            bits = self._gpu.get(self.places[name][0], array["shape"], np.dtype(NUMPY[array["dtype"]]))
            if array["fill"][0] != "unset":
                self._bits[name] = bits
        some = bits if rows is None else bits[rows]
        return float32(some) if array["dtype"] == "bfloat16" else some

    def launches(self, variant: str, turn: int) -> list[Launch]:
        """Return the launches of a variant on the copies of one turn."""
        return [self._launch(record, turn) for record in self._scene["variants"][variant]]

    def _launch(self, record: Mapping[str, Any], turn: int) -> Launch:
        arguments: list[int | bytes] = []
        for argument in record["arguments"]:
            if "value" in argument:
                arguments.append(value(argument["type"], argument["value"]))
            elif "data" in argument:
                arguments.append(self._constant(argument["data"]))
            elif argument["array"] is None:
                arguments.append(0)
            else:
                places = self.places[argument["array"]]
                arguments.append(places[turn % len(places)])
        kernel = self._gpu.kernel(self._folder / f"{record['cubin']}.cubin")
        return Launch(kernel, tuple(record["blocks"]), tuple(record["threads"]), tuple(arguments))

    def _constant(self, data: list[int]) -> int:
        name = f"constant {data}"
        if name not in self.places:
            self.places[name] = [self._gpu.put(np.array(data, np.int32))]
        return self.places[name][0]


def measured(gpu: Gpu, folder: Path, scene: Mapping[str, Any], tools: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return a line for each variant of a scene: microseconds, their spread, registers and errors."""
    filled = Filled(gpu, folder, scene, tools)
    lines = []
    for variant in scene["variants"]:
        first = filled.launches(variant, 0)
        for launch in first:
            gpu.launch(launch)
        found = list(expected.found(scene, variant, filled.read))
        every = [launch for turn in range(scene["turns"]) for launch in filled.launches(variant, turn)]
        microseconds, spread = gpu.timed(every, FEWEST)
        lines.append(
            {
                "scene": scene["id"],
                "operation": scene["operation"],
                "rows": scene["rows"],
                "variant": variant,
                "bytes": scene["bytes"],
                "us": microseconds / scene["turns"],
                "spread": spread / scene["turns"],
                "registers": max(launch.kernel.registers for launch in first),
                "local_bytes": max(launch.kernel.local_bytes for launch in first),
                "right": all(one.error <= one.allowed for one in found),
                "errors": {one.name: [one.error, one.allowed] for one in found},
            }
        )
    gpu.free()
    return lines


def ceilings(gpu: Gpu, folder: Path, tools: Mapping[str, str], sizes: list[int]) -> dict[str, Any]:
    """Return what an empty launch takes, and a plain read of each size, from memory."""
    empty = Launch(gpu.kernel(folder / f"{tools['empty']}.cubin"), (1, 1, 1), (32, 1, 1), ())
    kernel = gpu.kernel(folder / f"{tools['read']}.cubin")
    start, out = gpu.room(WINDOW), gpu.room(16)
    reads = {}
    for nbytes in sorted(set(sizes)):
        count = nbytes // 16
        turns = max(1, min(MOST_READS, WINDOW // nbytes))
        tried = []
        for each in (1, 4):
            blocks = max(1, -(-count // (256 * each)))
            launches = [
                Launch(
                    kernel, (blocks, 1, 1), (256, 1, 1), (start + turn * (nbytes // 16 * 16), out, value("uint", count))
                )
                for turn in range(turns)
            ]
            tried.append(gpu.timed(launches, FEWEST)[0] / turns)
        reads[nbytes] = min(tried)
    gpu.free()
    return {"empty": gpu.timed([empty], 64)[0], "reads": reads}


def step(gpu: Gpu, folder: Path, scene: Mapping[str, Any], tools: Mapping[str, str]) -> dict[str, Any]:
    """Return what a whole decode step's launches take as one graph, and a plain read of the same bytes in pieces of a
    gigabyte at most."""
    filled = Filled(gpu, folder, scene, tools)
    microseconds, spread = gpu.timed(filled.launches("ours", 0))
    gpu.free()
    kernel = gpu.kernel(folder / f"{tools['read']}.cubin")
    start, out = gpu.room(WINDOW), gpu.room(16)
    reads = []
    left = scene["bytes"]
    while left >= 16:
        piece = min(left, WINDOW // 2)
        at = start + len(reads) % 2 * (WINDOW // 2)
        blocks = max(1, -(-piece // (16 * 256 * 4)))
        reads.append(Launch(kernel, (blocks, 1, 1), (256, 1, 1), (at, out, value("uint", piece // 16))))
        left -= piece
    bound, _ = gpu.timed(reads)
    gpu.free()
    return {
        "step": scene["id"],
        "launches": len(scene["variants"]["ours"]),
        "bytes": scene["bytes"],
        "us": microseconds,
        "spread": spread,
        "read_us": bound,
        "share": bound / microseconds,
    }


def load(file: Path) -> Any:
    """Return a record of ``plan``."""
    return json.loads(file.read_text())
