"""Each operation of the native library is exact on every architecture, and a row's bits depend on nothing but the row.

``tests.reports.fuzz_cpu`` runs thousands of the trials of which this runs some.
"""

import mlx.core as mx
import numpy as np
import pytest

from metal_kernels import operands
from metal_kernels.cpu import library, operations
from metal_kernels.operands import Attention, CacheView, Dense, Experts
from tests.metal_kernels.cpu.trials import OPERATIONS
from tests.metal_kernels.cpu.trials.attention import TAIL
from tests.metal_kernels.cpu.trials.common import Draw
from tests.metal_kernels.cpu.trials.experts import in_passes
from tests.metal_kernels.shaders.common import EPS, F32, exact
from tests.metal_kernels.shaders.experts import FP4, LIMIT
from tests.reports.fuzz_cpu import judged
from tests.support.native import architectures, spoil, using

pytestmark = pytest.mark.skipif(not architectures(), reason="there is no native library")

THREADS = (1, 2, 3, 7)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_an_operation_is_as_exact_as_plain_mlx(operation):
    found = [mistake for number in range(12) for mistake in judged(operation, number, seed=20)[1]]
    assert not found, "\n".join(found)


def test_the_trials_cover_every_operation():
    """Passes over experts are two functions of the library, for the passes and for their sum."""
    names = {operation.__name__ for operation in OPERATIONS} - {"expert_mlp_in_passes"}
    assert names | {"expert_pass", "expert_combine"} == set(library.SIGNATURES)


def through_one_expert(codes: np.ndarray, scale: int, x: np.ndarray) -> np.ndarray:
    """Return x [T, 32] times a matrix of these codes [32, 32], which have one scale, in float32."""
    words = (codes.reshape(1, 32, 4, 8).astype(np.uint32) << (4 * np.arange(8, dtype=np.uint32))).sum(
        -1, dtype=np.uint32
    )
    down = Experts(mx.array(words), mx.full((1, 32, 1), scale, mx.uint8), mx.zeros((1, 32)))
    activated = operands.chunk_major(mx.array(x.astype(np.float32))[:, None], F32)
    logits, slots = mx.zeros((len(x), 1)), mx.array([0], mx.int32)
    out = operations.expert_down_residual(activated, logits, slots, down, mx.zeros((len(x), 32)))
    return np.array(out)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 32])
@pytest.mark.parametrize("scale", [0, 1, 2, 126, 127, 128, 252, 254])
def test_every_code_of_mxfp4_has_its_value(architecture, scale, rows):
    finite = np.flatnonzero(np.abs(FP4) < 2.0 ** (255 - scale))
    codes = finite[(np.arange(32)[:, None] + 5 * np.arange(32)) % len(finite)]
    for first in range(0, 32, rows):
        got = through_one_expert(codes, scale, np.eye(32)[first : first + rows])
        want = np.ldexp(FP4[codes.T[first : first + rows]], scale - 127).astype(np.float32)
        assert np.array_equal(got, want[: len(got)])


@pytest.mark.parametrize("rows", [1, 32])
def test_a_value_of_mxfp4_beyond_float32_is_infinite_and_scale_255_is_nan(architecture, rows):
    codes = np.zeros((32, 32), int)
    codes[:, 0] = 7
    assert np.isinf(through_one_expert(codes, 254, np.eye(32)[[0] * rows])).all()
    assert np.isnan(through_one_expert(codes, 255, np.ones((rows, 32)))).all()


def test_bfloat16_is_opened_exactly(architecture):
    every = np.arange(1 << 16, dtype=np.uint16).reshape(-1, 32)
    got = operations.embed(mx.arange(len(every)), Dense(mx.array(every).view(mx.bfloat16)))
    assert np.array_equal(np.array(got).view(np.uint32), every.astype(np.uint32) << 16)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_8_bits_are_opened_to_one_rounding(architecture, dtype):
    codes = np.arange(256, dtype=np.uint8)[None].repeat(3, 0)
    scales, offsets = (Draw(number).normal(3, 4).astype(dtype) for number in range(2))
    table = Dense(mx.array(codes).view(mx.uint32), None, scales, offsets)
    want = codes * np.repeat(exact(scales), 64, axis=1) + np.repeat(exact(offsets), 64, axis=1)
    got = exact(operations.embed(mx.array([0, 1, 2]), table))
    assert (np.abs(got - want) <= 2.0**-23 * (np.abs(want) + 255 * np.abs(exact(scales)).max())).all()


def test_exponentials_have_their_precision_as_far_as_float32_goes(architecture):
    """One head for each score, one key, and sinks of 0: a row is e^x / (e^x + 1)."""
    scores = np.linspace(-87.3, 87.3, 4001).astype(np.float32)
    q = np.zeros((1, len(scores), 1, 32), np.float32)
    q[0, :, 0, 0] = scores
    one = mx.ones((1, 1, 1, 32))
    out = operations.prefill_attention(mx.array(q), one, one, Attention(mx.zeros(len(scores)), 1.0, None))
    got = np.array(out).reshape(-1, 32)[:, 0]
    exponentials = np.exp(scores.astype(np.float64))
    want = exponentials / (exponentials + 1)
    assert np.abs(got / want - 1).max() < 2.5e-7


def layer(draw: Draw, rows: int, columns: int, kind: str, biased: bool = True) -> Dense:
    made = draw.matrix(rows, columns, kind, biased=False)
    return made._replace(bias=draw.normal(rows)) if biased else made


def products(T: int, kind: str):
    """Return, by name, functions of some of T rows: every operation whose rows do not depend on each other."""
    H, inner, E, k = 832, 160, 8, 3
    heads, kv_heads, D = 6, 2, 32
    draw = Draw(T, len(kind))
    x = draw.normal(T, H, scale=3)
    norm = 1 + draw.normal(H, scale=0.3)
    angle = draw.normal(T, D // 2)
    cos, sin = mx.cos(angle), mx.sin(angle)
    qkv = layer(draw, (heads + 2 * kv_heads) * D, H, kind)
    o = layer(draw, 90, H, kind)
    router = layer(draw, E, H, "bfloat16" if kind.startswith("q8") else kind)
    head = layer(draw, 203, H, kind, biased=False)
    residual = draw.normal(T, 90)
    attended = draw.normal(T, H)
    handed = operands.chunk_major(draw.normal(T, H), F32)
    logits = draw.normal(T, E)
    slots = mx.array(draw.rng.permutation(E).astype(np.int32))
    up = draw.mixture(E, 2 * inner, H)
    down = draw.mixture(E, 96, inner)
    activated = operands.chunk_major(draw.normal(T, k, inner), F32)
    stream = draw.normal(T, 96)
    mx.eval(x, norm, cos, sin, residual, attended, handed, logits, activated, stream)

    def one_by_one(of):
        made = operations.expert_gate_up(handed[of], logits[of], slots, up, k, LIMIT)
        return operations.expert_down_residual(made, logits[of], slots, down, stream[of])

    return {
        "norm_qkv_rope": lambda of: operations.norm_qkv_rope(
            x[of], norm, EPS, qkv, cos[of], sin[of], heads=heads, kv_heads=kv_heads
        ),
        "output_residual": lambda of: operations.output_residual(attended[of], o, residual[of]),
        "norm_router": lambda of: operations.norm_router(x[of], norm, EPS, router, F32),
        "norm_head": lambda of: operations.norm_head(x[of], norm, EPS, head),
        "norm_head_argmax": lambda of: operations.norm_head_argmax(x[of], norm, EPS, head),
        "expert_gate_up": lambda of: operations.expert_gate_up(handed[of], logits[of], slots, up, k, LIMIT),
        "expert_down_residual": lambda of: operations.expert_down_residual(
            activated[of], logits[of], slots, down, stream[of]
        ),
        "experts": lambda of: operations.expert_mlp_grouped(
            handed[of], logits[of], slots, up, down, stream[of], k=k, limit=LIMIT
        ),
        "experts one by one": one_by_one,
        "experts in passes": lambda of: operations.expert_mlp_in_passes(
            handed[of], logits[of], in_passes(slots, 3), up, down, stream[of], k=k, limit=LIMIT
        ),
    }


NAMES = tuple(products(1, "float32"))


def outputs(out) -> list[np.ndarray]:
    """Return what an operation made, with the bits it has."""
    return [np.array(array) for array in ((out,) if isinstance(out, mx.array) else out)]


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", ["float32", "q8 beside bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_a_row_has_the_same_bits_whatever_stands_beside_it(architecture, name, kind):
    call = products(200, kind)[name]
    whole = outputs(call(slice(0, 200)))
    for first, count in ((0, 1), (7, 2), (100, 3), (101, 4), (50, 5), (13, 25), (180, 20), (96, 97), (199, 1)):
        of = slice(first, first + count)
        assert same(outputs(call(of)), [array[of] for array in whole]), f"rows {first} to {first + count}"


def test_grouped_experts_give_a_row_the_bits_that_they_give_it_one_by_one(architecture):
    calls = products(33, "float32")
    every = slice(0, 33)
    assert same(outputs(calls["experts"](every)), outputs(calls["experts one by one"](every)))
    assert same(outputs(calls["experts"](every)), outputs(calls["experts in passes"](every)))


@pytest.mark.parametrize("rows", [1, 5, 130])
@pytest.mark.parametrize("name", NAMES)
def test_the_number_of_threads_changes_no_bit(architecture, name, rows):
    call = products(rows, "bfloat16")[name]
    made = []
    for threads in THREADS:
        with using(architecture, threads):
            made.append(outputs(call(slice(0, rows))))
    assert all(same(made[0], other) for other in made[1:])


def prompt(B: int, L: int, P: int, window: int | None):
    draw = Draw(B, L, P)
    kv = draw.normal(2, B, 2, P, 64)
    return draw.normal(B, 12, L, 64), kv[0], kv[1], Attention(draw.normal(12), 0.2, window)


@pytest.mark.parametrize("window", [None, 30])
def test_a_prompts_attention_has_the_same_bits_on_any_threads_and_in_any_batch(architecture, window):
    q, k, v, own = prompt(3, 70, 200, window)
    made = []
    for threads in THREADS:
        with using(architecture, threads):
            made.append(outputs(operations.prefill_attention(q, k, v, own)))
    assert all(same(made[0], other) for other in made[1:])
    for b in range(3):
        alone = operations.prefill_attention(*(array[b : b + 1] for array in (q, k, v)), own)
        assert same(outputs(alone), [array[b : b + 1] for array in made[0]])


def sequences(lengths, L: int, window: int | None):
    """Return arguments of decode attention for sequences of (body, tail) rows, a new copy at every call."""
    draw = Draw(L, len(lengths))
    caches = [
        CacheView(
            draw.normal(2, 1, 2, body + 3, 64), draw.normal(2, 1, 2, TAIL, 64), mx.array([body, tail]), body + tail
        )
        for body, tail in lengths
    ]
    S = len(lengths)
    return draw.normal(S * L, 12, 64), draw.normal(S * L, 2, 2, 64), caches, Attention(draw.normal(12), 0.2, window)


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("L", [1, 5])
def test_decode_attention_has_the_same_bits_on_any_threads_and_beside_any_sequence(architecture, L, window):
    lengths = [(0, 0), (99, 40), (60, 3), (1500, 20), (508, 3), (511, 59)] if window is None else [(99, 40), (0, 0)] * 3
    made = []
    for threads in THREADS:
        with using(architecture, threads):
            made.append(outputs(operations.decode_attention(*sequences(lengths, L, window))[0]))
    assert all(same(made[0], other) for other in made[1:])
    q, kv, caches, own = sequences(lengths, L, window)
    for number, cache in enumerate(caches):
        of = slice(number * L, number * L + L)
        alone, _ = operations.decode_attention(q[of], kv[of], [cache], own)
        assert same(outputs(alone), [array[of] for array in made[0]])


@pytest.mark.parametrize("threads", THREADS)
def test_the_largest_of_negative_logits_is_found(architecture, threads):
    draw = Draw(threads)
    x = mx.abs(draw.normal(3, 64))
    head = Dense(-mx.abs(draw.normal(700, 64)))
    with using(architecture, threads):
        tokens, _ = operations.norm_head_argmax(x, mx.ones(64), EPS, head)
        logits = np.array(operations.norm_head(x, mx.ones(64), EPS, head))
    assert logits.max() < 0
    assert tokens.tolist() == logits.argmax(axis=1).tolist()


def test_large_results_are_as_small_ones():
    """Their memory is MLX's own."""
    draw = Draw(0)
    x, norm, head = draw.normal(700, 32), mx.ones(32), Dense(draw.normal(operations.SMALL // 650, 32))
    whole = operations.norm_head(x, norm, EPS, head)
    again = operations.norm_head(x * 2, norm, EPS, head)  # while the first is still there
    assert whole.size > operations.SMALL
    parts = [operations.norm_head(x[t : t + 7], norm, EPS, head) for t in range(0, 700, 7)]
    assert mx.array_equal(whole, mx.concatenate(parts))
    assert not mx.array_equal(again, whole)


def test_an_operation_reads_nothing_that_an_earlier_one_left(architecture):
    """The trials run so too, each after NaN has filled the buffers that threads keep."""
    call = products(25, "float32")["experts"]
    before = outputs(call(slice(0, 25)))
    spoil()
    assert same(outputs(call(slice(0, 25))), before)
