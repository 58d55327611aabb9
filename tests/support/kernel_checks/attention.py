"""What attention over a cache has to satisfy: alone, and where it is split over keys, with what joins the splits."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import mlx.core as mx
import numpy as np

from metal_kernels import dispatches
from metal_kernels.dispatches import Dispatch
from metal_kernels.emulator import Kind, Report
from tests.support.kernel_checks.common import BF16, F16, F32, ROUNDING, check_in_every_order, error, exact, run

OPERATIONS = ("attention", "attention_combine")
ROOM = 64  # rows of a tail


@dataclass(frozen=True)
class Case:
    """A cache, its first rows in the body and the next in the tail, and new rows. What holds no position is NaN."""

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
    sharpness: float = 2.0  # the scores' standard deviation
    loud: int | None = None  # a key with scores that dwarf all others
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

    def divided(self, body: int, tail: int, new: int) -> "Case":
        """The same positions, the last of them in other places."""
        a, end = self.arrays, body + tail + new
        every = mx.concatenate([a.body[..., : self.body, :], a.tail[..., : self.tail, :], _as_cache(a.kv)], axis=3)
        queries = mx.concatenate([mx.zeros((self.keys, *a.q.shape[1:])), a.q])
        case = replace(self, body=body, tail=tail, new=new)
        kv = every[:, 0, :, body + tail : end].transpose(2, 0, 1, 3)
        parts = every[..., :body, :], every[..., body : body + tail, :]
        case.__dict__["arrays"] = Arrays.of(case, queries[body + tail : end], kv, *parts, a.sinks)
        return case


@dataclass(frozen=True)
class Arrays:
    q: mx.array
    kv: mx.array
    body: mx.array
    tail: mx.array
    rows: mx.array
    sinks: mx.array

    @classmethod
    def random(cls, case: Case) -> "Arrays":
        rng = np.random.default_rng(case.seed)

        def normal(*shape: int, scale: float = 1.0) -> mx.array:
            return mx.array((scale * rng.standard_normal(shape)).astype(np.float32))

        def cache(rows: int) -> mx.array:
            return normal(2, 1, case.kv_heads, rows, case.dim).astype(case.kv)

        kv, body = normal(case.new, 2, case.kv_heads, case.dim), cache(case.body)
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

        rows = mx.array([case.body, case.tail], mx.int32)
        capacity = case.body + case.unused
        return cls(q, mx.contiguous(kv), padded(body, capacity), padded(tail, ROOM), rows, sinks)


def _as_cache(kv: mx.array) -> mx.array:
    """[L, 2, M, D] as a body has it, [2, 1, M, L, D]."""
    return kv.transpose(1, 2, 0, 3)[:, None]


# Nothing before; body or tail empty; a tail that gets full; a window's edge passed; a window filled; scores that dwarf
# the others in the last run of all, and in the first of two; heads, widths and dtypes; splits of which one is short,
# and rows of which some need one split fewer.
CASES = [
    (Case(90, 41, 3, heads=8, kv_heads=4, dim=32, window=64, kv=F16, sinks=F16), F32),
    (Case(0, 0, 1, unused=0), F32),
    (Case(0, 56, 8, window=128, kv=F32, sinks=F32), F16),
    (Case(126, 0, 3, heads=16, kv_heads=2, window=128, loud=128), F32),
    (Case(33, 5, 2, kv_heads=8, dim=128, unused=0, sharpness=30, kv=F16), BF16),
    (Case(254, 0, 3, kv=F32, loud=9), F32),
    (Case(449, 63, 1, heads=64, kv_heads=8), F32),
]


# ---- the definition in float64


def defined(case: Case) -> np.ndarray:
    """[L, N * D], over all positions in one array."""
    a = case.arrays
    new = exact(_as_cache(a.kv))
    keys, values = np.concatenate([exact(a.body)[..., : case.body, :], exact(a.tail)[..., : case.tail, :], new], 3)[
        :, 0
    ]
    out = np.empty(a.q.shape)
    for row, head in np.ndindex(case.new, case.heads):
        own, group = case.keys + row, head // (case.heads // case.kv_heads)
        first = max(0, own + 1 - (case.window or own + 1))
        scores = keys[group, first : own + 1] @ exact(a.q)[row, head] * case.scale
        logits = np.append(scores, exact(a.sinks)[head])
        weights = np.exp(logits - logits.max())
        out[row, head] = weights[:-1] / weights.sum() @ values[group, first : own + 1]
    return out.reshape(case.new, -1)


def defined_combine(parts: mx.array, sinks: mx.array) -> np.ndarray:
    """Values weighted by exp(score - maximum), maxima and sums of the weights, brought to one maximum and divided."""
    L, N, _, width = parts.shape
    p, logits = exact(parts), exact(sinks)[:, None]
    top = np.maximum(p[..., -4].max(-1, keepdims=True), logits)
    weights = np.exp(p[..., -4] - top)
    total = (weights * p[..., -3]).sum(-1, keepdims=True) + np.exp(logits - top)
    return ((weights[..., None] * p[..., :-4]).sum(-2) / total).reshape(L, N * (width - 4))


# ---- running


def dispatch(case: Case, handed_on: mx.Dtype = F32) -> Dispatch:
    """What the project launches first."""
    a = case.arrays
    made = dispatches.attention_with_cache(
        a.q, a.kv, a.body, a.tail, a.rows, case.keys, a.sinks, case.scale, case.window, handed_on
    )
    assert made is not None, f"no shader for {case}"
    return made


def attended(
    case: Case, handed_on: mx.Dtype = F32, folder: Path = dispatches.FOLDER, **options
) -> tuple[mx.array, mx.array, list[Report]]:
    """Attended rows and the fresh tail, with the reports of one launch or two."""
    (out, fresh), report = run(dispatch(case, handed_on), folder, **options)
    if not dispatches.is_split(out):
        return out, fresh, [report]
    (joined,), second = run(dispatches.attention_combine(out, case.arrays.sinks, handed_on), folder, **options)
    return joined, fresh, [report, second]


# ---- what has to hold


def check(case: Case, folder: Path = dispatches.FOLDER, handed_on: mx.Dtype = F32) -> list[Report]:
    """Right to rounding, clean in check mode, bit-equal in three orders; exactly the tail's rows are handed on."""
    filled = case.tail + case.new
    unwritten = 2 * case.kv_heads * (ROOM - filled) * case.dim * case.kv.size
    want_tail = mx.concatenate([case.arrays.tail[..., : case.tail, :], _as_cache(case.arrays.kv)], axis=3)
    first = None
    for order in ("forward", "reversed", "shuffled"):
        out, fresh, reports = attended(case, handed_on, folder, mode="check", order=order)
        findings = [str(finding) for report in reports for finding in report.findings]
        if unwritten:
            assert len(findings) == 1, findings
            assert re.search(rf": {Kind.UNWRITTEN}: {unwritten} of .*'fresh_tail'", findings[0]), findings
        else:
            assert not findings, findings
        assert mx.array_equal(fresh[..., :filled, :], want_tail)
        if first is None:
            first = out
            got = exact(out)
            assert np.isfinite(got).all()
            wrong = error(got, defined(case))
            assert wrong <= ROUNDING[handed_on], (wrong, handed_on)
        assert mx.array_equal(out, first), order
    return reports


def check_division(folder: Path = dispatches.FOLDER) -> None:
    """A row has the same bits wherever its positions lie, whatever rows come with it, and split or not."""
    for window in (None, 128):
        case = Case(dispatches.SPLIT_KEYS - 13, 7, 8, window=window, kv=F32)  # two rows reach into a second split
        together, _, _ = attended(case, folder=folder, mode="fast")
        for row, tail in ((5, 0), (5, 63), (6, 30)):
            position = case.keys + row
            alone, _, _ = attended(case.divided(position - tail, tail, 1), folder=folder, mode="fast")
            assert mx.array_equal(alone[0], together[row]), (window, row, tail)


def check_tilings(folder: Path = dispatches.FOLDER) -> None:
    """The same bits however many keys a lane holds at a time."""
    made = dispatch(Case(70, 3, 2))
    (out, _), _ = run(made, folder, mode="fast")
    for batch in (1, 2, 8):
        (again, _), _ = run(made.retiled(BATCH=batch), folder, mode="fast")
        assert mx.array_equal(out, again), batch


def check_combine(folder: Path = dispatches.FOLDER) -> None:
    """Splits below, at and above the lanes, the last of them by far the largest, or of no keys at all."""
    for splits, dim, dtype in ((2, 32, F32), (32, 64, BF16), (33, 128, F16)):
        rng = np.random.default_rng(splits)
        parts = rng.standard_normal((2, 8, splits, dim + 4)).astype(np.float32)
        parts[..., -4] *= 5
        parts[..., -3] = rng.uniform(1, 100, parts.shape[:3])
        parts[0, :, -1, -4] = 200
        parts[1, :, -1] = 0
        parts[1, :, -1, -4] = -np.finfo(np.float32).max
        given, sinks = mx.array(parts), mx.array(rng.standard_normal(8)).astype(dtype)
        made = dispatches.attention_combine(given, sinks, dtype)
        check_in_every_order(made, [defined_combine(given, sinks)], lambda out: [exact(out[0])], folder)


def check_all(operations: Sequence[str], folder: Path) -> None:
    """Every check of some of the operations, quick ones first."""
    if "attention_combine" in operations:
        check_combine(folder)
    if "attention" in operations:
        for case, handed_on in CASES:
            check(case, folder, handed_on)
        check_tilings(folder)
    check_division(folder)
