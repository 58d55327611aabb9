"""What a scene's launches have to give, by definition, in float64, at a sample of places. Knows numpy alone.

``read(name)`` gives an array of the first copy in its own dtype, or some of its rows; bfloat16 comes as float32.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
SAMPLED = 48
"""Rows of a matrix that are looked at, spread over it."""
FLOAT32_ERROR = 2e-5
HALF_ERROR = 2e-3
BFLOAT_ERROR = 2e-2
"""Errors allowed as parts of the largest value: of ours before and after their last rounding, and of MLX's."""
Read = Callable[..., np.ndarray]


class Found(NamedTuple):
    """An output, a sample of its elements, what they are by definition, and the error allowed."""

    name: str
    got: np.ndarray
    want: np.ndarray
    allowed: float

    @property
    def error(self) -> float:
        """The largest difference as a part of the largest value."""
        if not np.isfinite(self.got).all():
            return float("inf")
        return float(np.abs(self.got - self.want).max() / np.abs(self.want).max())


def found(scene: Mapping[str, Any], variant: str, read: Read) -> Iterator[Found]:
    """Yield the outputs of a scene's variant beside what they have to be."""

    def exact(name: str) -> np.ndarray:
        return read(name).astype(np.float64)

    of = {"decode_attention": _attention, "expert_gate_up": _experts, "expert_down_residual": _experts}
    yield from of.get(scene["operation"], _dense)(scene, variant, read, exact)


def _sample(rows: int) -> np.ndarray:
    return np.unique(np.linspace(0, rows - 1, SAMPLED).astype(int))


def _natural(chunked: np.ndarray) -> np.ndarray:
    """Return chunk-major rows [..., 4, C / 32, 8] as [..., C]."""
    return chunked.swapaxes(-3, -2).reshape(*chunked.shape[:-3], -1)


def _experts(scene: Mapping[str, Any], variant: str, read: Read, exact: Read) -> Iterator[Found]:
    operation, k, limit = scene["operation"], scene["sizes"]["choices"], scene["sizes"]["limit"]
    weight, scales, bias = (read(f"{operation}.{part}") for part in ("weight", "scales", "bias"))
    picked = _sample(weight.shape[1] // 2) * 2

    def product(slot: int, rows: np.ndarray, x: np.ndarray) -> np.ndarray:
        codes = (weight[slot, rows][..., None] >> (4 * np.arange(8, dtype=np.uint32))) & 15
        scale = np.ldexp(1.0, scales[slot, rows].astype(int) - 127)
        return (FP4[codes].reshape(len(rows), -1) * np.repeat(scale, 32, axis=1)) @ x

    if variant.startswith("mlx"):
        x, lhs, rhs = exact("plain"), read("lhs_indices"), read("rhs_indices")
        want = np.array([product(int(slot), picked, x[at]) for at, slot in zip(lhs, rhs, strict=True)])
        yield Found("y", exact("y")[:, picked], want, BFLOAT_ERROR)
        return
    given, slots = _natural(exact("given")), read("slots")
    out = exact("out") if operation == "expert_down_residual" else _natural(exact("out"))
    got, wanted = [], []
    for row, logits in enumerate(exact("logits")):
        chosen = np.argsort(-logits, kind="stable")[:k]
        shares = np.exp(logits[chosen] - logits[chosen[0]])
        held = [int(slots[expert]) for expert in chosen]
        if operation == "expert_gate_up":
            for choice, slot in enumerate(held):
                gate, linear = (
                    product(slot, picked + side, given[row]) + bias[slot, picked + side].astype(np.float64)
                    for side in (0, 1)
                )
                gate, linear = np.minimum(gate, limit), np.clip(linear, -limit, limit)
                wanted.append(gate / (1 + np.exp(-1.702 * gate)) * (linear + 1))
                got.append(out[row, choice, picked // 2])
        else:
            each = [product(slot, picked, given[row, c]) + bias[slot, picked] for c, slot in enumerate(held)]
            wanted.append(exact("x")[row, picked] + (shares / shares.sum()) @ np.array(each))
            got.append(out[row, picked])
    allowed = HALF_ERROR if operation == "expert_gate_up" else FLOAT32_ERROR
    yield Found("out", np.array(got), np.array(wanted), allowed)


def _values(read: Read, picked: np.ndarray, q8: bool) -> np.ndarray:
    """Return rows of the dense matrix."""
    weight = read("matrix.weight", picked)
    if not q8:
        return weight.astype(np.float64)
    codes = ((weight[..., None] >> (8 * np.arange(4, dtype=np.uint32))) & 255).reshape(len(picked), -1)
    scales, offsets = (
        np.repeat(read(f"matrix.{part}", picked).astype(np.float64), 64, axis=1) for part in ("scales", "offsets")
    )
    return codes * scales + offsets


def _dense(scene: Mapping[str, Any], variant: str, read: Read, exact: Read) -> Iterator[Found]:
    operation, sizes, q8 = scene["operation"], scene["sizes"], scene["q8"]
    argmax = variant == "ours, argmax"
    picked = _sample(scene["arrays"]["matrix.weight"]["shape"][0])
    if operation == "norm_qkv_rope":  # both halves of a head
        half = sizes["head_dim"] // 2
        picked = np.unique(
            np.concatenate([picked // half // 2 * 2 * half + picked % half + side for side in (0, half)])
        )
    if variant.startswith("mlx"):
        want = exact("vector") @ _values(read, picked, q8).T
        yield Found("y", exact("y")[:, picked], want, BFLOAT_ERROR)
        return
    x = exact("x")
    normed = x / np.sqrt((x**2).mean(-1, keepdims=True) + sizes["eps"]) * exact("norm")
    if argmax:
        best, at, chosen = exact("best"), read("at").astype(int), read("chosen").astype(int)
        looked = np.unique(np.concatenate([chosen, at[:, :: max(1, at.shape[1] // SAMPLED)].reshape(-1)]))
        logits = dict(zip(looked, (normed @ _values(read, looked, q8).T).T, strict=True))
        for row in range(len(x)):
            some = range(0, at.shape[1], max(1, at.shape[1] // SAMPLED))
            yield Found("best", best[row, list(some)], np.array([logits[at[row, i]][row] for i in some]), FLOAT32_ERROR)
            yield Found("chosen", np.array([best[row].max()]), np.array([logits[chosen[row]][row]]), FLOAT32_ERROR)
        return
    given = exact("attended") if operation == "output_residual" else normed
    product = given @ _values(read, picked, q8).T
    if operation == "norm_head":
        yield Found("out", exact("out")[:, picked], product, FLOAT32_ERROR)
        return
    product = product + exact("matrix.bias")[picked]
    if operation == "output_residual":
        yield Found("out", exact("out")[:, picked], x[:, picked] + product, FLOAT32_ERROR)
        return
    dim, heads, kv_heads = sizes["head_dim"], sizes["heads"], sizes["kv_heads"]
    low = picked % dim < dim // 2
    turn = picked[low] % dim
    cos, sin = exact("cosines")[:, turn], exact("sines")[:, turn]
    rotated = picked[low] < (heads + kv_heads) * dim
    first, second = product[:, low], product[:, ~low]
    turned = product.copy()
    turned[:, low] = np.where(rotated, first * cos - second * sin, first)
    turned[:, ~low] = np.where(rotated, second * cos + first * sin, second)
    query = picked < heads * dim
    q, kv = (exact(name).reshape(len(x), -1) for name in ("q", "kv"))
    yield Found("q", q[:, picked[query]], turned[:, query], FLOAT32_ERROR)
    yield Found("kv", kv[:, picked[~query] - heads * dim], turned[:, ~query], BFLOAT_ERROR)


def _attention(scene: Mapping[str, Any], variant: str, read: Read, exact: Read) -> Iterator[Found]:
    sizes, rows, window = scene["sizes"], scene["rows"], scene["window"]
    heads, group, scale = sizes["heads"], sizes["heads"] // sizes["kv_heads"], sizes["scale"]
    sinks = exact("sinks")
    looked = sorted({0, heads // 2 + 1, heads - 1})

    def attended(q: np.ndarray, keys: np.ndarray, values: np.ndarray, sink: float) -> np.ndarray:
        scores = keys.astype(np.float64) @ q * scale
        top = max(scores.max(), sink)
        weights = np.exp(scores - top)
        return weights @ values.astype(np.float64) / (weights.sum() + np.exp(sink - top))

    if variant.startswith("mlx"):
        if window is not None and rows > 1:
            return  # MLX masks a window of several rows with an array of its own
        q, keys, values, y = exact("queries"), read("keys"), read("values"), exact("y")
        last = [keys.shape[1] - rows + row + 1 for row in range(rows)]
        want = [
            [
                attended(q[h, row], keys[h // group, :end], values[h // group, :end], sinks[h])
                for row, end in enumerate(last)
            ]
            for h in looked
        ]
        yield Found("y", y[looked], np.array(want), BFLOAT_ERROR)
        return
    q, kv, body, tail = exact("q"), read("kv"), read("body"), read("tail")
    in_body, in_tail = map(int, read("counts"))
    split = "joined" in scene["arrays"]
    out = exact("joined" if split else "attended").reshape(rows, heads, -1)
    want = []
    for h in looked:
        m = h // group
        keys, values = (
            np.concatenate([body[side, 0, m, :in_body], tail[side, 0, m, :in_tail], kv[:, side, m]]) for side in (0, 1)
        )
        for row in range(rows):
            end = in_body + in_tail + row + 1
            start = 0 if window is None else max(0, end - window)
            want.append(attended(q[row, h], keys[start:end], values[start:end], sinks[h]))
    got = np.array([out[row, h] for h in looked for row in range(rows)])
    yield Found("attended", got, np.array(want), HALF_ERROR)
    fresh = read("fresh")
    written = np.concatenate([tail[:, 0, :, :in_tail], kv.transpose(1, 2, 0, 3)], axis=2)
    yield Found("fresh", fresh[:, 0, :, : in_tail + rows], written, 0.0)
