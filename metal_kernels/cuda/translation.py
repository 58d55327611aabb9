"""A Metal kernel function as CUDA C++ with one entry, and its launch in blocks. Compiles nothing."""

import math
import re
from pathlib import Path
from typing import cast

from metal_kernels.emulator.signature import Function
from metal_kernels.source import MetalSource

Triple = tuple[int, int, int]

SHIM = Path(__file__).resolve().parent / "native" / "metal.cuh"
ENTRY = "entry"
FREE_THREADS = 256
"""Threads in a block of which each may have all 255 registers that an NVIDIA GPU addresses. The compiler is told of no
fewer, so that one cubin serves every number of rows."""
THREADGROUP_VARIABLE = re.compile(r"(?m)(?<=[;{}\n])(\s*)threadgroup(\s+[\w:<>, ]+?\s+\w+\s*(?:\[[^\]\n;]*\]\s*)*;)")
ATTRIBUTES = {
    "thread_index_in_simdgroup": "thread_in_block() % 32",
    "simdgroup_index_in_threadgroup": "thread_in_block() / 32",
    "thread_index_in_threadgroup": "thread_in_block()",
    "thread_position_in_threadgroup": "uint3{threadIdx.x, threadIdx.y, threadIdx.z}",
    "thread_position_in_grid": "uint3{blockIdx.x * blockDim.x + threadIdx.x, blockIdx.y * blockDim.y + threadIdx.y, "
    "blockIdx.z * blockDim.z + threadIdx.z}",
    "threadgroup_position_in_grid": "uint3{blockIdx.x, blockIdx.y, blockIdx.z}",
    "threadgroups_per_grid": "uint3{gridDim.x, gridDim.y, gridDim.z}",
}
"""Metal's attributes of a thread. Blocks are whole threadgroups: a grid is a multiple of its threadgroup."""


def translated(function: Function, threads: int) -> str:
    """Return the source of ``entry``, which takes the function's buffers in order as pointers.

    ``threads`` are those of a threadgroup. Raises KeyError for an attribute that is not known.
    """
    source = THREADGROUP_VARIABLE.sub(r"\1__shared__\2", function.source)
    buffers = 0
    arguments = []
    for parameter in function.parameters:
        if parameter.kind == "buffer":
            arguments.append(f"buffer{{b{buffers}}}")
            buffers += 1
        else:
            arguments.append(ATTRIBUTES[parameter.name])
    bounds = f"__launch_bounds__({max(threads, FREE_THREADS)})"
    declared = ", ".join(f"void* b{number}" for number in range(buffers))
    return (
        f"{SHIM.read_text()}{source}\n"
        f'#line 1 "entry"\nextern "C" __global__ void {bounds} {ENTRY}({declared}) {{\n'
        f"  {function.expression}({', '.join(arguments)});\n}}\n"
    )


def blocks(source: MetalSource, grid: Triple, threadgroup: Triple) -> tuple[Triple, Triple]:
    """Return how many blocks of how many threads a Metal launch of ``grid`` threads is.

    Metal's last threadgroup along an axis may be smaller. CUDA has only whole blocks, so all are made smaller where the
    grid is no multiple, which no simdgroup can tell. Raises ValueError for a shader whose threadgroups share memory.
    """
    threads = tuple(math.gcd(whole, part) for whole, part in zip(grid, threadgroup, strict=True))
    if threads != tuple(map(min, grid, threadgroup)) and (threads[0] % 32 or THREADGROUP_VARIABLE.search(source.body)):
        raise ValueError(
            f"{source.path.name}: a grid of {grid} threads is no multiple of a threadgroup of {threadgroup}"
        )
    count = tuple(whole // part for whole, part in zip(grid, threads, strict=True))
    return cast(Triple, count), cast(Triple, threads)
