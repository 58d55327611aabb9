"""Finds the lines of a kernel that were reached, by editing the compiler's intermediate text before it optimises.

Every basic block gets a mark, which is set when the block is entered. Then the lines of its instructions are reached.
"""

import re
from collections.abc import Sequence

from metal_kernels.emulator.report import Place
from metal_kernels.emulator.sites import DebugInfo

MAX_BLOCKS = 65536
"""The most marks of a kernel, as in runtime.cpp."""
_LABEL = re.compile(r"^[\w.$-]+:")
_PHI = re.compile(r"^\s+%\S+ = phi ")
_LOCATION = re.compile(r", !dbg !(\d+)")


def insert_marks(ir: str, own: tuple[str, ...]) -> tuple[str, list[frozenset[tuple[str, int]]]]:
    """Return LLVM text whose blocks set marks, and the (file, line) pairs each mark stands for."""
    debug = DebugInfo(ir, own)
    result: list[str] = []
    blocks: list[set[tuple[str, int]]] = []
    inside = fresh = False
    for line in ir.split("\n"):
        if line.startswith("define "):
            inside = fresh = True
        elif line.startswith("}"):
            inside = False
        elif inside and _LABEL.match(line):
            fresh = True
        elif inside and line.strip() and not _PHI.match(line):
            if fresh:
                mark = f"getelementptr inbounds ([{MAX_BLOCKS} x i8], ptr @emu_reached, i64 0, i64 {len(blocks)})"
                result.append(f"  store i8 1, ptr {mark}, align 1")
                blocks.append(set())
                fresh = False
            if location := _LOCATION.search(line):
                blocks[-1] |= {(place.file, place.line) for place in debug.chain(int(location[1]))}
        result.append(line)
    first = next(i for i, line in enumerate(result) if line.startswith(("define", "declare", "@")))
    result.insert(first, f"@emu_reached = external global [{MAX_BLOCKS} x i8], align 1")
    return "\n".join(result), [frozenset(block) for block in blocks]


def reached_lines(
    blocks: Sequence[frozenset[tuple[str, int]]], marks: bytes
) -> tuple[frozenset[Place], frozenset[Place]]:
    """Return all lines that have code, and those of them that were reached."""
    every = {Place(*pair) for block in blocks for pair in block}
    reached = {Place(*pair) for block, mark in zip(blocks, marks, strict=False) if mark for pair in block}
    return frozenset(every), frozenset(reached)
