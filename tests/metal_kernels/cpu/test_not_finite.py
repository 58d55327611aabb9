"""What is not finite in plain MLX is not finite in the library either: it hides no NaN, and meets none with a crash.

The engine ends a reply whose numbers are not finite. An attention that turns NaN into 0 would keep it alive.
"""

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels import reference
from metal_kernels.cpu import operations
from metal_kernels.operands import Dense
from tests.metal_kernels.cpu.calls import BODY, CALLS, TAIL, arrays
from tests.metal_kernels.cpu.trials.common import Draw
from tests.metal_kernels.shaders.common import EPS
from tests.metal_kernels.shaders.experts import chosen
from tests.support.native import architectures

pytestmark = pytest.mark.skipif(not architectures(), reason="there is no native library")

NOT_FINITE = (np.nan, np.inf, -np.inf)
PLACES = {"first": 0, "last": -1, "all": slice(None)}


def planted(array: mx.array, value: float, at: str) -> mx.array:
    spoilt = np.array(array)
    spoilt.flat[PLACES[at]] = value
    return mx.array(spoilt)


def finite(out: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.isfinite(one).ravel() for one in out])


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("name", [name for name in CALLS if name != "norm_head_argmax"])
def test_what_is_not_finite_in_plain_mlx_is_not_finite_here(architecture, name, value, rows):
    call = CALLS[name]
    for place in (*call.rows, *call.weights):
        if arrays(rows)[place].dtype != mx.float32:
            continue
        spoilt = False
        for at in PLACES:
            a = arrays(rows)
            a[place] = planted(a[place], value, at)
            plain, own = finite(call.outputs(reference, a)), finite(call.outputs(operations, a))
            spoilt |= not plain.all()
            hidden = int((own & ~plain).sum())
            assert not hidden, f"{value} in {place}, {at}: {hidden} of {own.size} values are finite"
        if np.isnan(value) and (name, place) != ("expert_gate_up", "logits"):  # there they only choose
            assert spoilt, f"nothing comes of NaN in {place}"


@pytest.mark.parametrize("place", ["body", "tail"])
def test_what_a_caches_rows_without_a_position_hold_is_not_read(architecture, place):
    """A shader leaves anything in them, and so does a step that failed."""
    a = arrays(3)
    want = CALLS["decode_attention"].outputs(operations, a)
    held = np.array(arrays(3)[place])
    rows = BODY if place == "body" else TAIL
    spoilt = np.full((*held.shape[:3], max(64, rows + 3), held.shape[4]), np.nan, np.float32)
    spoilt[:, :, :, :rows] = held[:, :, :, :rows]
    got = CALLS["decode_attention"].outputs(operations, arrays(3) | {place: mx.array(spoilt)})
    assert np.array_equal(got[0], want[0])


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("at", PLACES)
@pytest.mark.parametrize("place", ["x", "norm", "head"])
def test_a_token_lies_in_the_vocabulary_and_its_witness_tells(architecture, place, at, value):
    a = arrays(5)
    a[place] = planted(a[place], value, at)
    arguments = a["x"], a["norm"], EPS, Dense(a["head"])
    logits = np.array(operations.norm_head(*arguments))
    tokens, witness = map(np.array, operations.norm_head_argmax(*arguments))
    assert (tokens < logits.shape[1]).all()
    whole = np.isfinite(logits).all(axis=1)
    assert np.array_equal(np.isfinite(witness), whole)
    assert not whole.all()
    assert np.array_equal(tokens[whole], logits[whole].argmax(axis=1))


@pytest.mark.parametrize("value", NOT_FINITE)
@pytest.mark.parametrize("k", [1, 4, 6])
def test_any_router_logits_choose_experts_that_there_are(architecture, k, value):
    """Each expert gives a row another power of two, so the sum tells which were chosen with which shares."""
    E = 6
    powers = np.repeat(2.0 ** np.arange(E), 32).reshape(E, 32).astype(np.float32)
    down = Draw(k).mixture(E, 32, 32)._replace(bias=mx.array(powers))
    for bits in range(1, 1 << E):
        logits = np.array(Draw(k, bits).normal(1, E))
        logits[0, [e for e in range(E) if bits >> e & 1]] = value
        nothing = mx.zeros((1, k, 8, 1, 4))
        out = operations.expert_down_residual(nothing, mx.array(logits), mx.arange(E), down, mx.zeros((1, 32)))
        got = np.array(out)
        if np.isfinite(got).all():
            assert ((got >= 1) & (got <= 2 ** (E - 1))).all()
        if not np.isnan(value):
            ids, shares = chosen(logits[0].astype(float), k)
            assert np.allclose(got, (2.0 ** np.array(ids) * shares).sum(), rtol=1e-6, equal_nan=True)
