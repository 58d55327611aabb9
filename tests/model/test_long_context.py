"""Far beyond the window: a row-blocked float64 computation of two layers with 20b's attention, written here in numpy.

Slow: minutes and some GB.
"""

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.memory.caches import cache_bytes
from gptoss_mlx.model.cache import KVCache
from gptoss_mlx.model.rope import inverse_frequencies
from tests.support.checkpoints import DEFAULTS, from_bf16, hf_tensors
from tests.support.measure import relative_l2
from tests.support.models import random_model

SIZES = {
    "num_hidden_layers": 2,
    "hidden_size": 256,
    "intermediate_size": 64,
    "num_local_experts": 4,
    "vocab_size": 512,
}
HEADS = 64
KV_HEADS = 8
D = 64
WINDOW = 128
FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
pytestmark = pytest.mark.slow


def yarn():
    """Ours, held to the reference elsewhere: a unit in the last place of another's is 8e-3 rad at the last position."""
    return inverse_frequencies(ModelConfig(num_hidden_layers=2, num_local_experts=4))


class Reference:
    """The two layers in float64 from a random checkpoint's tensors."""

    def __init__(self, seed):
        self.t = {name: from_bf16(b).astype(np.float64) if d == "BF16" else b for name, d, b in hf_tensors(SIZES, seed)}

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * self.t[name]

    def rotate(self, x, positions):
        """x [L, n, D]. The angle is a float32 product, as in the reference implementation."""
        angle = (positions.astype(np.float32)[:, None] * yarn()[None]).astype(np.float64)
        scale = 0.1 * np.log(32) + 1
        cos = scale * np.cos(angle)[:, None]
        sin = scale * np.sin(angle)[:, None]
        a = x[..., : D // 2]
        b = x[..., D // 2 :]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    def project(self, x, layer, which, positions):
        name = f"model.layers.{layer}.self_attn.{which}_proj"
        out = (x @ self.t[f"{name}.weight"].T + self.t[f"{name}.bias"]).reshape(len(x), -1, D)
        return out if which == "v" else self.rotate(out, positions)

    def attend(self, q, k, v, positions, layer, window=None):
        """q [Q, N, D] at ``positions`` over all of k, v [P, M, D]: [Q, N * D]."""
        sinks = self.t[f"model.layers.{layer}.self_attn.sinks"]
        out = np.empty((len(q), HEADS, D))
        step = 64 if window else 8
        for start in range(0, len(q), step):
            rows = positions[start : start + step]
            first = max(0, rows[0] - window + 1) if window else 0
            keys = np.arange(first, rows[-1] + 1)
            seen = keys[None] <= rows[:, None]
            if window:
                seen &= keys[None] > rows[:, None] - window
            for n in range(HEADS):
                scores = q[start : start + step, n] @ k[first : rows[-1] + 1, n // 8].T / np.sqrt(D)
                scores = np.where(seen, scores, -np.inf)
                top = np.maximum(scores.max(-1, keepdims=True), sinks[n])
                weights = np.exp(scores - top)
                total = weights.sum(-1, keepdims=True) + np.exp(sinks[n] - top)
                out[start : start + step, n] = weights / total @ v[first : rows[-1] + 1, n // 8]
        name = f"model.layers.{layer}.self_attn.o_proj"
        return out.reshape(len(q), -1) @ self.t[f"{name}.weight"].T + self.t[f"{name}.bias"]

    def experts(self, x, layer):
        mlp = f"model.layers.{layer}.mlp"
        normed = self.norm(x, f"model.layers.{layer}.post_attention_layernorm.weight")
        logits = normed @ self.t[f"{mlp}.router.weight"].T + self.t[f"{mlp}.router.bias"]
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)  # top 4 of 4
        out = np.zeros_like(x)
        for e in range(4):
            h = (
                normed @ self.decoded(f"{mlp}.experts.gate_up_proj", e).T
                + self.t[f"{mlp}.experts.gate_up_proj_bias"][e]
            )
            gate = np.minimum(h[:, 0::2], 7)
            linear = np.clip(h[:, 1::2], -7, 7)
            h = gate / (1 + np.exp(-1.702 * gate)) * (linear + 1)
            h = h @ self.decoded(f"{mlp}.experts.down_proj", e).T + self.t[f"{mlp}.experts.down_proj_bias"][e]
            out += weights[:, e : e + 1] * h
        return x + out

    def decoded(self, name, e):
        blocks = self.t[f"{name}_blocks"][e]
        scales = self.t[f"{name}_scales"][e]
        values = np.stack([FP4[blocks & 15], FP4[blocks >> 4]], -1).reshape(*scales.shape, 32)
        return (values * np.exp2(scales.astype(np.float64) - 127)[..., None]).reshape(len(blocks), -1)

    def last_layer(self, x, rows, positions, k, v):
        x = self.experts(x + self.attend(self.project(self.normed(x, 1), 1, "q", rows), k, v, rows, 1), 1)
        return self.norm(x, "model.norm.weight") @ self.t["lm_head.weight"].T

    def normed(self, x, layer):
        return self.norm(x, f"model.layers.{layer}.input_layernorm.weight")

    def logits(self, tokens, rows):
        positions = np.arange(len(tokens))
        x = self.t["model.embed_tokens.weight"][tokens]
        q, k, v = (self.project(self.normed(x, 0), 0, which, positions) for which in "qkv")
        x = self.experts(x + self.attend(q, k, v, positions, 0, WINDOW), 0)
        k, v = (self.project(self.normed(x, 1), 1, which, positions) for which in "kv")
        return self.last_layer(x[rows], rows, positions, k, v)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp("long"), SIZES, seed=51)


def test_a_prefill_of_16000_tokens_agrees_at_64_positions_and_holds_what_the_formula_says(runtime):
    assert (DEFAULTS["num_attention_heads"], DEFAULTS["num_key_value_heads"], DEFAULTS["head_dim"]) == (64, 8, 64)
    tokens = np.random.default_rng(0).integers(0, 512, 16000)
    rows = np.unique(np.concatenate([np.linspace(0, 15999, 60).astype(int), [127, 128, 4095, 4096]]))
    want = Reference(51).logits(tokens, rows)
    context = runtime.context()
    got = []
    before = mx.get_active_memory()
    for start in range(0, 16000, 512):
        x = runtime.model(mx.array(tokens[None, start : start + 512]), context.cache)
        inside = [int(row) - start for row in rows if start <= row < start + 512]
        if inside:
            got.append(np.array(runtime.model.logits(x[:, mx.array(inside)])[0]))
        mx.eval(context.cache.arrays())
    assert relative_l2(np.concatenate(got), want) <= 1e-5
    mx.eval(runtime.model(mx.array([[7]]), context.cache), context.cache.arrays())
    del x
    held = mx.get_active_memory() - before
    assert held <= 1.05 * cache_bytes(runtime.config, 16000, mx.float32)
    assert held >= cache_bytes(runtime.config, 16000, mx.float32)


def test_a_cache_filled_to_the_last_position_decodes_as_a_direct_computation(runtime):
    config: ModelConfig = runtime.config
    length = config.max_position_embeddings - 1
    rng = np.random.default_rng(1)
    held = [rng.standard_normal((2, 1, KV_HEADS, rows, D), np.float32) for rows in (WINDOW - 1, length)]
    cache = KVCache.restored(config, length, [mx.array(array) for array in held])
    got = np.array(runtime.model.logits(runtime.model(mx.array([[7]]), cache))[0])

    reference = Reference(51)
    position = np.array([length])
    factor = 0.1 * np.log(32) + 1  # ours keeps it in the scale: keys in the cache are without it
    x = reference.t["model.embed_tokens.weight"][[7]]
    for layer, rows in ((0, WINDOW - 1), (1, length)):
        q, k, v = (reference.project(reference.normed(x, layer), layer, which, position) for which in "qkv")
        past_k, past_v = held[layer][:, 0].transpose(0, 2, 1, 3).astype(np.float64)
        keys = np.concatenate([past_k * factor, k])
        values = np.concatenate([past_v, v])
        x = reference.experts(x + reference.attend(q, keys, values, np.array([rows]), layer), layer)
    want = reference.norm(x, "model.norm.weight") @ reference.t["lm_head.weight"].T
    assert relative_l2(got, want) <= 1e-5
    assert cache.length == config.max_position_embeddings
