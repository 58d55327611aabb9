"""Every dispatch of the shaders' own checks, with its inputs and what the emulator makes of it, for ``replay``."""

import hashlib
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import numpy as np

from metal_kernels import dispatches
from metal_kernels.dispatches import Dispatch
from metal_kernels.emulator import arrays
from metal_kernels.source import MetalSource
from tests.gpu.plan import Plan
from tests.metal_kernels.shaders import decode_attention, dense, experts, grouped
from tests.metal_kernels.shaders.common import BF16, F16, F32, ROUNDING, retiled, run

UNWRITTEN = ("fresh_tail",)
"""Outputs that a shader writes only in part."""
ALLOWED = {F32: ROUNDING[F32], F16: 2 * ROUNDING[F16], BF16: 2 * ROUNDING[BF16], mx.uint32: 0.0}
"""The largest difference from the emulator as a part of the largest value, by dtype: both round, and their exp and
rsqrt differ in the last place."""
FAR = 1e-4
"""The same where scores are near 200 or -200, which are off by as much themselves."""


def every() -> Iterator[tuple[str, Dispatch, float | None]]:
    """Yield what is checked, the dispatch, and the difference allowed, None for the usual one."""
    for family in (experts, dense):
        for operation in family.OPERATIONS:
            for case, handed in family.CASES:
                yield f"{operation} {case}", family.dispatch(operation, case, handed), None
            for tiling in family.TILINGS.get(operation, ()):
                made = family.dispatch(operation, family.CASES[1][0])
                if operation != "norm_head_argmax":  # whose threadgroups each have a share of the vocabulary
                    yield f"{operation} {tiling}", retiled(made, **tiling), None
        for edge, (operation, case, handed) in family.edges().items():
            yield f"{operation}: {edge}", family.dispatch(operation, case, handed), None
    for operation in grouped.OPERATIONS:
        for case in grouped.CASES:
            yield f"{operation} {case}", grouped.dispatch(operation, case), None
    for edge, (operation, case) in grouped.edges().items():
        yield f"{operation}: {edge}", grouped.dispatch(operation, case), None
    cases = [(str(case), case, handed, None) for case, handed in decode_attention.CASES]
    cases += [
        (edge, case, handed, FAR if "200" in edge else None)
        for edge, (case, handed, _) in decode_attention.edges().items()
    ]
    for what, case, handed, allowed in cases:
        made = decode_attention.dispatch(case, handed)
        assert made is not None
        yield f"decode_attention {what}", made, allowed
        if len(made.output_shapes[0]) == 4:
            (parts, _), _ = run(made, mode="fast")
            joined = dispatches.decode_attention_combine(parts, case.arrays.sinks, handed)
            assert joined is not None
            yield f"decode_attention_combine {what}", joined, allowed


def recorded(plan: Plan, kept: dict[str, np.ndarray]) -> Iterator[dict[str, Any]]:
    """Yield a record of each dispatch. The bits of its arrays go into ``kept`` by name."""

    def keep(bits: np.ndarray) -> str:
        bits = np.ascontiguousarray(bits)
        whole = f"{bits.dtype} {bits.shape}".encode() + bits.tobytes()
        name = hashlib.sha256(whole).hexdigest()[:16]
        kept[name] = bits
        return name

    for what, made, allowed in every():
        source = MetalSource.read(dispatches.FOLDER / f"{made.shader}.metal")
        names = [output.name for output in source.outputs]
        outputs, _ = run(made, mode="fast", init_value=0)
        again, _ = run(made, mode="fast", init_value=1) if set(names) & set(UNWRITTEN) else (outputs, None)
        written = []
        for name, dtype, one, other in zip(names, made.output_dtypes, outputs, again, strict=True):
            bits, others = (arrays.take(array)[0] for array in (one, other))
            about: dict[str, Any] = {"name": name, "dtype": dispatches.name(dtype), "emulated": keep(bits)}
            about["allowed"] = ALLOWED[dtype] if allowed is None else max(allowed, ALLOWED[dtype])
            if name in UNWRITTEN:
                about["written"] = keep(bits == others)
            written.append(about)
        inputs = [keep(arrays.take(array)[0]) for array in made.inputs]
        launch = plan.ours(made, names, inputs)
        yield {"what": what, "shader": made.shader, "launch": launch, "outputs": written}
