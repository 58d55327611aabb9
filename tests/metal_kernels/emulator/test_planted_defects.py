"""Every planted defect is reported in its class, at its line; every kernel without it is clean and right."""

import numpy as np
import pytest

from metal_kernels.emulator import Finding, FindingKind, KernelFault, LintError, lint, metal_kernel
from tests.metal_kernels.emulator.planted import HELPERS, PLANTED, ROW_SUM, TREE_SUM, Planted

ROWS = np.random.default_rng(0).standard_normal((4, 1000)).astype(np.float32)


def run(body: str, header: str = "", **options):
    kernel = metal_kernel("planted", ["inp"], ["out"], body, header=header)
    call = {"inputs": [ROWS], "output_shapes": [(4,)], "output_dtypes": ["float32"]}
    return kernel(**call, grid=(4 * 256, 1, 1), threadgroup=(256, 1, 1), **options)


def findings(planted: Planted) -> list[Finding]:
    try:
        _, report = run(*planted.sources(wrong=True))
    except LintError as error:
        return error.findings
    except KernelFault as fault:
        return fault.report.findings
    return report.findings


@pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)
def test_the_defect_is_reported_at_its_line(planted, monkeypatch):
    if planted.in_memory:
        monkeypatch.setattr(lint, "private_arrays", lambda *_: [])
    found = findings(planted)
    here = [f for f in found if f.kind is planted.kind]
    assert here, f"expected {planted.kind}, got {[str(f) for f in found]}"
    if planted.kind is FindingKind.UNWRITTEN:
        assert "'out'" in here[0].message
        return
    file = f"planted ({'header' if planted.in_header else 'source'})"
    expected = (file, planted.line(planted.at or planted.wrong))
    # The order of the threads decides which of two racing accesses is the second.
    pairs = [{(p.file, p.line) for p in (f.place, f.other) if p} for f in here]
    assert any(expected in pair for pair in pairs), f"expected {expected}, got {[str(f) for f in found]}"
    if planted.other:
        assert {expected, (file, planted.line(planted.other))} in pairs, [str(f) for f in found]


@pytest.mark.parametrize("body", [ROW_SUM, TREE_SUM, HELPERS], ids=["row sum", "tree sum", "helpers"])
@pytest.mark.parametrize("order", ["forward", "reversed", "shuffled"])
def test_the_kernel_without_defects_is_clean(body, order):
    planted = next(p for p in PLANTED if p.body == body)
    (out,), report = run(*planted.sources(wrong=False), order=order)
    assert not report.findings, [str(f) for f in report.findings]
    np.testing.assert_allclose(out, ROWS.astype(np.float64).sum(1), rtol=2e-6, atol=2e-5)
