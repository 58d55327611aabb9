"""How many registers the shaders take that the published models launch, by NVRTC for an NVIDIA GPU. Not Apple's.

A GPU with fewer keeps what does not fit in memory, or runs fewer threads at a time. That a shader fits there is no
promise that it does on a Mac, whose compiler is another. That it does not fit is a warning.
"""

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod

import mlx.core as mx

from metal_kernels import dispatches
from metal_kernels.cuda import cubins
from metal_kernels.dispatches import Dispatch
from metal_kernels.source import MetalSource
from tests.support import launches


@dataclass(frozen=True)
class Registers:
    """A shader with one template: its largest threadgroup, its registers, and the bytes of memory that a thread of it
    needs beside them."""

    shader: str
    template: tuple
    threads: int
    registers: int
    local_bytes: int


@functools.cache
def launched(dense: str, dtype: mx.Dtype = mx.bfloat16) -> list[Dispatch]:
    """Return the launches of both published models."""
    return [made for experts in launches.MODELS.values() for made in launches.published(dense, experts, dtype)]


def measured(launches: Iterable[Dispatch]) -> Iterator[Registers]:
    """Yield each shader and template among the launches once. Raise nvrtc.Absent."""
    threads: dict[tuple, int] = {}
    for made in launches:
        key = made.shader, made.template
        threads[key] = max(threads.get(key, 0), prod(made.threadgroup))
    for (shader, template), most in threads.items():
        compiled = cubins.of_shader(MetalSource.read(dispatches.FOLDER / f"{shader}.metal"), dict(template), most)
        yield Registers(shader, template, most, compiled.registers, compiled.local_bytes)


def table() -> str:
    """Return the report's text on registers. Raise nvrtc.Absent."""
    lines = [
        "",
        "# Registers",
        "",
        "Of an NVIDIA H100, as its compiler counts them (NVRTC, sm_90); not Apple's. Every template is counted that",
        "20b or 120b launches with 1 to 8 rows in bfloat16. Local bytes are a thread's stack and spills in memory.",
        "",
        "| shader | dense | templates | threads at most | registers at most | local bytes |",
        "|---|---|---|---|---|---|",
    ]
    both = {dense: list(measured(launched(dense))) for dense in ("q8", "bf16")}
    for shader in sorted({one.shader for one in both["q8"]}):
        q8, bf16 = ([one for one in found if one.shader == shader] for found in both.values())
        for dense, found in [("either", q8)] if q8 == bf16 else [("q8", q8), ("bf16", bf16)]:
            most = [max(getattr(one, name) for one in found) for name in ("threads", "registers", "local_bytes")]
            lines.append(f"| {shader} | {dense} | {len(found)} | " + " | ".join(map(str, most)) + " |")
    return "\n".join(lines) + "\n"
