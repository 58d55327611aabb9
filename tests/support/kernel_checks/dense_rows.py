"""The dense shaders' part of the kernel report: what they read at the published size, and how exact they are."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from metal_kernels import dispatches
from tests.support.kernel_checks import dense as checks
from tests.support.kernel_checks.common import BF16, F32, Error, exact, run
from tests.support.kernel_checks.dense import Case
from tests.support.kernel_checks.row import Row

MATRIX = {"norm_qkv_rope": "qkv", "output_residual": "o", "norm_head": "head", "norm_head_best": "head"}


def rows() -> Iterator[Row]:
    """One row through one layer of gpt-oss-20b or 120b, whose dense parts are alike, and 2,048 rows of the head."""
    for q8 in (False, True):
        case = checks.of_20b(q8)
        for operation in MATRIX:
            yield measure(operation, case)


def measure(operation: str, case: Case, folder: Path = dispatches.FOLDER) -> Row:
    """Count one operation and take its error in float32 outputs."""
    made = checks.dispatch(operation, case, BF16)
    _, counted = run(made, folder, mode="count")
    out, _ = run(checks.dispatch(operation, case, F32), folder, mode="fast")
    want = checks.defined(operation, case)
    read = {name: use for name, use in counted.buffers.items() if use.loads}
    return Row(
        f"{operation}, {'q8' if case.q8 else 'bf16'}",
        {name: use.bytes_issued for name, use in read.items()},
        {name: use.unique_bytes for name, use in read.items()},
        _fewest(operation, case),
        sum(use.lines for use in read.values()),
        max(Error.of(exact(a), b) for a, b in zip(out, want, strict=True)),
    )


def _fewest(operation: str, case: Case) -> Mapping[str, int]:
    """Bytes of each input that one row cannot do without: all of them."""
    a = case.arrays
    layer = getattr(a, MATRIX[operation])
    arrays = layer._asdict() | {
        "norm_qkv_rope": {"x": a.x, "norm": a.norm, "cosines": a.cos, "sines": a.sin},
        "output_residual": {"attended": a.attended, "residual": a.x},
    }.get(operation, {"x": a.x, "norm": a.norm})
    fewest = {name: array.nbytes for name, array in arrays.items() if array is not None}
    if operation == "norm_qkv_rope":  # values are not rotated
        assert fewest["cosines"] == fewest["sines"] == 4 * case.head_dim // 2
    return fewest
