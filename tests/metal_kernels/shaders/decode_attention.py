"""Cases for the shaders of decode attention, their definitions in float64, and the dispatches for them."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import mlx.core as mx
import numpy as np

from metal_kernels import dispatches
from metal_kernels.dispatches import Dispatch
from metal_kernels.emulator import Report
from metal_kernels.operands import Attention, CacheView
from tests.metal_kernels.shaders.common import BF16, F16, F32, ROUNDING, exact, run

OPERATIONS = ("decode_attention", "decode_attention_combine")
ROOM = 64
"""Rows of a tail."""


@dataclass(frozen=True)
class Case:
    """Positions in the body of a cache, in its tail, and new ones. Rows of a cache that hold no position are NaN."""

    body: int
    tail: int
    new: int
    heads: int = 8
    kv_heads: int = 1
    dim: int = 64
    window: int | None = None
    kv: mx.Dtype = BF16
    sinks: mx.Dtype = BF16
    unused: int = 3  # rows of the body
    sharpness: float = 2.0  # the standard deviation of the scores
    loud: int | None = None  # a key whose scores dwarf all others
    seed: int = 0

    def __str__(self) -> str:
        window = f"-window{self.window}" if self.window else ""
        shape = f"{self.heads}x{self.kv_heads}x{self.dim}"
        return f"{self.body}+{self.tail}+{self.new}-{shape}{window}-{dispatches.name(self.kv)}"

    @property
    def keys(self) -> int:
        return self.body + self.tail

    @property
    def scale(self) -> float:
        return self.dim**-0.5

    @cached_property
    def arrays(self) -> "Arrays":
        return Arrays.random(self)

    def having(self, **arrays: mx.array) -> "Case":
        """Return the case with other arrays."""
        case = replace(self)
        case.__dict__["arrays"] = replace(self.arrays, **arrays)
        return case

    def divided(self, body: int, tail: int, new: int) -> "Case":
        """Return the same positions, as many of them as given, in other places."""
        a = self.arrays
        end = body + tail + new
        every = mx.concatenate([a.body[..., : self.body, :], a.tail[..., : self.tail, :], as_cache(a.kv)], axis=3)
        queries = mx.concatenate([mx.zeros((self.keys, *a.q.shape[1:])), a.q])
        case = replace(self, body=body, tail=tail, new=new)
        kv = every[:, 0, :, body + tail : end].transpose(2, 0, 1, 3)
        parts = every[..., :body, :], every[..., body : body + tail, :]
        case.__dict__["arrays"] = Arrays.of(case, queries[body + tail : end], kv, *parts, a.sinks)
        return case


@dataclass(frozen=True)
class Arrays:
    """The inputs of the operation."""

    q: mx.array
    kv: mx.array
    body: mx.array
    tail: mx.array
    counts: mx.array
    sinks: mx.array

    @classmethod
    def random(cls, case: Case) -> "Arrays":
        rng = np.random.default_rng(case.seed)

        def normal(*shape: int, scale: float = 1.0) -> mx.array:
            return mx.array((scale * rng.standard_normal(shape)).astype(np.float32))

        def cache(rows: int) -> mx.array:
            return normal(2, 1, case.kv_heads, rows, case.dim).astype(case.kv)

        kv = normal(case.new, 2, case.kv_heads, case.dim)
        body = cache(case.body)
        if case.loud is not None and case.loud < case.body:
            body[0, :, :, case.loud] *= 200
        elif case.loud is not None:
            kv[case.loud - case.keys, 0] *= 200
        sinks = 2 * rng.standard_normal(case.heads).astype(np.float32)
        sinks[:3] = 40, -40, -np.inf
        return cls.of(
            case,
            normal(case.new, case.heads, case.dim, scale=case.sharpness),
            kv.astype(case.kv),
            body,
            cache(case.tail),
            mx.array(sinks).astype(case.sinks),
        )

    @classmethod
    def of(cls, case: Case, q: mx.array, kv: mx.array, body: mx.array, tail: mx.array, sinks: mx.array) -> "Arrays":
        def padded(part: mx.array, rows: int) -> mx.array:
            nothing = mx.full((*part.shape[:3], rows - part.shape[3], case.dim), mx.nan, case.kv)
            return mx.contiguous(mx.concatenate([part, nothing], axis=3))

        counts = mx.array([case.body, case.tail], mx.int32)
        capacity = case.body + case.unused
        return cls(q, mx.contiguous(kv), padded(body, capacity), padded(tail, ROOM), counts, sinks)


def as_cache(kv: mx.array) -> mx.array:
    """Return keys and values [L, 2, M, D] as a body has them, [2, 1, M, L, D]."""
    return kv.transpose(1, 2, 0, 3)[:, None]


CASES = [
    (Case(90, 41, 3, heads=8, kv_heads=4, dim=32, window=64, kv=F16, sinks=F16), F32),
    (Case(0, 0, 1, unused=0), F32),
    (Case(0, 56, 8, window=128, kv=F32, sinks=F32), F16),
    (Case(126, 0, 3, heads=16, kv_heads=2, window=128, loud=128), F32),
    (Case(33, 5, 2, kv_heads=8, dim=128, unused=0, sharpness=30, kv=F16), BF16),
    (Case(254, 0, 3, kv=F32, loud=9), F32),
    (Case(961, 63, 1, heads=16, kv_heads=2), F32),
]
"""Cases, and the dtype of attended rows. There is nothing before the new rows; an empty body or tail; a tail that gets
full; a window filled, and its edge passed; scores that dwarf the others in the last run of all and in the first of two;
heads, widths and dtypes; rows of which some need one split fewer, and splits that a second shader joins."""


def edges() -> dict[str, tuple[Case, mx.Dtype, float]]:
    """Return inputs that a softmax without its maximum, or rows without their guard, would get wrong: the case, the
    dtype of attended rows, and the error that is allowed."""
    plain = Case(20, 4, 2, kv=F32, sinks=F32)
    a = plain.arrays
    above = mx.where(mx.arange(plain.heads) % 2 == 0, 200.0, a.sinks)

    def raised(by: float, scale: float) -> dict[str, mx.array]:
        """Add ``by`` to every score, and multiply scores by ``scale`` before."""
        q = mx.concatenate([a.q[..., :1] * 0 + by / plain.scale, a.q[..., 1:] * scale], axis=-1)

        def led(keys: mx.array) -> mx.array:  # by a one
            return mx.concatenate([keys[..., :1] * 0 + 1, keys[..., 1:]], axis=-1)

        kv = mx.stack([led(a.kv[:, 0]), a.kv[:, 1]], axis=1)
        body, tail = (mx.stack([led(part[0]), part[1]]) for part in (a.body, a.tail))
        return {"q": q, "kv": kv, "body": body, "tail": tail}

    far = raised(-200, 1)
    huge = plain.having(q=a.q * 0, sinks=mx.full((plain.heads,), 89.0), **_times(a, 1e36))
    return {
        "a sink 200 above half of the scores": (plain.having(sinks=above), F32, ROUNDING[F32]),
        # What the sink leaves is a subnormal share. Of values this large it can be seen.
        "huge values under a sink 89 above the scores": (huge, F32, ROUNDING[F32]),
        # A score of 200 is itself off by some 1e-5.
        "scores near -200": (plain.having(**far, sinks=mx.full((plain.heads,), -199.0)), F32, 1e-4),
        "scores near -200 without sinks": (plain.having(**far, sinks=a.sinks - mx.inf), F32, 1e-4),
        "scores near 200": (plain.having(**raised(200, 1)), F32, 1e-4),
        "values past half": (plain.having(**_times(a, 1e5)), F16, ROUNDING[F16]),
    }


def _times(a: "Arrays", factor: float) -> dict[str, mx.array]:
    """Return the arrays that hold values, with each value multiplied."""
    kv = mx.concatenate([a.kv[:, :1], a.kv[:, 1:] * factor], axis=1)
    body, tail = (mx.concatenate([part[:1], part[1:] * factor]) for part in (a.body, a.tail))
    return {"kv": kv, "body": body, "tail": tail}


def defined(case: Case) -> np.ndarray:
    """Return attended rows [L, N * D], by one softmax over all positions."""
    a = case.arrays
    new = exact(as_cache(a.kv))
    parts = [exact(a.body)[..., : case.body, :], exact(a.tail)[..., : case.tail, :], new]
    keys, values = np.concatenate(parts, axis=3)[:, 0]
    out = np.empty(a.q.shape)
    for row, head in np.ndindex(case.new, case.heads):
        own = case.keys + row
        group = head // (case.heads // case.kv_heads)
        first = max(0, own + 1 - (case.window or own + 1))
        scores = keys[group, first : own + 1] @ exact(a.q)[row, head] * case.scale
        logits = np.append(scores, exact(a.sinks)[head])
        weights = np.exp(logits - logits.max())
        out[row, head] = weights[:-1] / weights.sum() @ values[group, first : own + 1]
    return out.reshape(case.new, -1)


def defined_combine(parts: mx.array, sinks: mx.array) -> np.ndarray:
    """Return attended rows [L, N * D]: parts hold weighted values, the maximum score and the sum of weights of each
    split."""
    L, N, _, width = parts.shape
    p = exact(parts)
    logits = exact(sinks)[:, None]
    top = np.maximum(p[..., -4].max(-1, keepdims=True), logits)
    weights = np.exp(p[..., -4] - top)
    total = (weights * p[..., -3]).sum(-1, keepdims=True) + np.exp(logits - top)
    return ((weights[..., None] * p[..., :-4]).sum(-2) / total).reshape(L, N * (width - 4))


def view(case: Case, arrays: Arrays) -> CacheView:
    """Return the cache of the case."""
    return CacheView(arrays.body, arrays.tail, arrays.counts, case.keys)


def layer(case: Case, arrays: Arrays) -> Attention:
    """Return the attention of the case."""
    return Attention(arrays.sinks, case.scale, case.window)


def dispatch(case: Case, handed_on: mx.Dtype = F32, **others: mx.array) -> Dispatch | None:
    """Return the project's dispatch of the operation, with ``others`` in place of arrays of the case."""
    a = replace(case.arrays, **others)
    return dispatches.decode_attention(a.q, a.kv, view(case, a), layer(case, a), handed_on)


def attended(
    case: Case, handed_on: mx.Dtype = F32, folder: Path = dispatches.FOLDER, **options
) -> tuple[mx.array, mx.array, list[Report]]:
    """Return attended rows, the fresh tail, and the reports of one launch or two."""
    made = dispatch(case, handed_on)
    assert made is not None, f"no shader for {case}"
    (out, fresh), report = run(made, folder, **options)
    if not dispatches.is_split(out):
        return out, fresh, [report]
    (joined,), second = run(dispatches.decode_attention_combine(out, case.arrays.sinks, handed_on), folder, **options)
    return joined, fresh, [report, second]
