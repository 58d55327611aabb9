"""The runtime on MLX's CUDA backend: are its shaders right there, what does a step take, and beside mlx-lm.

Run as ``python -m tests.gpu.on_mlx PART OUT.json``, each part in a process of its own. Weights are drawn on the card,
so nothing is downloaded. Works at any size and on any backend of MLX, so a small model on a CPU is its dry run.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import mlx.core as mx
import numpy as np

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.model.cache import TAIL, KVCache
from gptoss_mlx.model.decoder import Decoder
from gptoss_mlx.model.weights import assembled
from gptoss_mlx.model_folder import layout
from metal_kernels import comparison, launch
from tests.support.decode_graph import alternating, with_layers

POSITIONS = (128, 1024, 8192)
BATCHES = (1, 4, 8)
WARM, GROUPS, STEPS = 4, 9, 8
"""Steps before the clock starts; groups of steps, of which the median counts; steps in a group."""
TOKENS = 64
Tensors = dict[str, mx.array]


def model_config(layers: int, experts: int, **others: int) -> ModelConfig:
    """Return the config of a model of the published sizes, or of others."""
    return with_layers(ModelConfig(num_hidden_layers=0, num_local_experts=experts, **others), alternating(layers))


def drawn(config: ModelConfig, dense: str) -> Tensors:
    """Return random tensors of a model folder of this shape, each finite and of ordinary size."""
    mx.random.seed(1)
    found: Tensors = {}
    for shard in layout.shards(config, dense):
        for name, spec in shard.tensors.items():
            found[name] = _tensor(name, spec.dtypes[0], spec.shape)
            mx.eval(found[name])
        mx.clear_cache()
    return found


def _tensor(name: str, dtype: str, shape: tuple[int, ...]) -> mx.array:
    if dtype == "U32":
        slabs = [shape] if len(shape) == 2 else [(1, *shape[1:])] * shape[0]
        return mx.concatenate([_words(slab) for slab in slabs])
    if dtype == "U8":
        return mx.random.randint(112, 122, shape).astype(mx.uint8)
    low, high = -0.5, 0.5
    if name.endswith("norm.weight"):
        low, high = 0.5, 1.5
    elif name.endswith((".scales", ".biases")):
        step = (64 * shape[1]) ** -0.5 / 128
        low, high = (0.9 * step, 1.1 * step) if name.endswith(".scales") else (-130 * step, -125 * step)
    elif name.endswith("router.weight"):
        low, high = -0.05, 0.05
    elif name.endswith(".weight"):
        low, high = -(shape[1] ** -0.5), shape[1] ** -0.5
    return mx.random.uniform(low, high, shape).astype(mx.bfloat16)


def _words(shape: tuple[int, ...]) -> mx.array:
    """Return random words, computed now, because drawing takes eight times their memory for a while."""
    halves = mx.random.randint(0, 1 << 16, (*shape[:-1], 2 * shape[-1]))  # drawn as floats, whole words have zeros
    words = halves.astype(mx.uint16).view(mx.uint32)
    mx.eval(words)
    return words


def kept(config: ModelConfig, length: int, batch: int) -> list[list[mx.array]]:
    """Return random keys and values [2, 1, M, length, D] of each layer of each sequence."""
    mx.random.seed(2)
    shape = (2, 1, config.num_key_value_heads, length, config.head_dim)
    return [
        [mx.random.uniform(-1, 1, shape).astype(mx.bfloat16) for _ in range(config.num_hidden_layers)]
        for _ in range(batch)
    ]


def caches_of(config: ModelConfig, every: Sequence[Sequence[mx.array]]) -> list[KVCache]:
    """Return our caches that hold these keys and values, half a tail of them in the tail."""
    found = []
    for layers in every:
        cache = KVCache.empty(config)
        for layer, kv in zip(cache.layers, layers, strict=True):
            length = kv.shape[3]
            layer.length = length
            layer.tail_rows = min(length, TAIL // 2)
            layer.body_rows = length - layer.tail_rows
            if layer.window:
                layer.body_rows = min(layer.body_rows, layer.window - 1)
            end = length - layer.tail_rows
            room = mx.zeros((*kv.shape[:3], 256, kv.shape[4]), kv.dtype)
            layer.body = mx.concatenate([kv[:, :, :, end - layer.body_rows : end], room], axis=3)
            rest = TAIL - layer.tail_rows
            layer.tail = mx.concatenate([kv[:, :, :, end:], room[:, :, :, :rest]], axis=3)
        mx.eval(cache.arrays())
        found.append(cache)
    return found


def stepper(model: Decoder, caches: Sequence[KVCache]) -> Callable[[mx.array], mx.array]:
    """Return a greedy step of ours: the next token of each sequence [B] from the last."""
    return lambda tokens: model.greedy(model.decode(tokens, caches).x)[0]


def timed(
    step: Callable[[mx.array], mx.array], batch: int, groups: int = GROUPS, steps: int = STEPS
) -> tuple[float, float]:
    """Return the median milliseconds of a step, each encoded while the one before runs, and those that the host is busy
    with it: Python, MLX's graph and its launches. If both are equal, the card waits for the host."""
    tokens = mx.zeros((batch,), mx.uint32)
    for _ in range(WARM):
        tokens = step(tokens)
        mx.async_eval(tokens)
    mx.eval(tokens)
    found = []
    for _ in range(groups):
        start = time.perf_counter()
        for _ in range(steps):
            tokens = step(tokens)
            mx.async_eval(tokens)
        encoded = time.perf_counter()
        mx.eval(tokens)
        found.append(((time.perf_counter() - start) / steps * 1e3, (encoded - start) / steps * 1e3))
    whole, host = zip(*found, strict=True)
    return median(whole), median(host)


def mlx_lm_model(config: ModelConfig, tensors: Tensors) -> Any:
    """Return mlx-lm's model of the same weights. The router is bfloat16 in both."""
    import mlx.nn as nn
    from mlx_lm.models import gpt_oss

    args = gpt_oss.ModelArgs(
        num_hidden_layers=config.num_hidden_layers,
        num_local_experts=config.num_local_experts,
        num_experts_per_tok=config.num_experts_per_tok,
        vocab_size=config.vocab_size,
        rms_norm_eps=config.rms_norm_eps,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        head_dim=config.head_dim,
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        sliding_window=config.sliding_window,
        rope_theta=int(config.rope_theta),
        rope_scaling=ROPE_SCALING,
        layer_types=list(config.layer_types),
    )
    model = gpt_oss.Model(args)
    q8 = "head.scales" in tensors

    def how(path: str, module: Any) -> bool | dict[str, Any]:
        if not hasattr(module, "to_quantized") or path.endswith("router"):
            return False
        if ".experts." in path:
            return {"group_size": 32, "bits": 4, "mode": "mxfp4"}
        return {"group_size": 64, "bits": 8, "mode": "affine"} if q8 else False

    nn.quantize(model, class_predicate=how)
    model.load_weights(list(_as_mlx_lm(config, tensors)), strict=True)
    mx.eval(model.parameters())
    return model


ROPE_SCALING = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}
"""The published configs' (huggingface.co/openai/gpt-oss-20b, config.json)."""


def _as_mlx_lm(config: ModelConfig, tensors: Tensors) -> Iterator[tuple[str, mx.array]]:
    q = config.num_attention_heads * config.head_dim
    kv = config.num_key_value_heads * config.head_dim
    parts = ("weight", "scales", "biases", "bias")

    def dense(ours: str, theirs: str, rows: slice = slice(None)) -> Iterator[tuple[str, mx.array]]:
        for part in parts:
            if (array := tensors.get(f"{ours}.{part}")) is not None:
                yield f"{theirs}.{part}", array[rows]

    yield from dense("embedding", "model.embed_tokens")
    yield from dense("head", "lm_head")
    yield "model.norm.weight", tensors["norm.weight"]
    for number in range(config.num_hidden_layers):
        ours, theirs = f"layers.{number}", f"model.layers.{number}"
        yield f"{theirs}.input_layernorm.weight", tensors[f"{ours}.attn_norm.weight"]
        yield f"{theirs}.post_attention_layernorm.weight", tensors[f"{ours}.mlp_norm.weight"]
        yield f"{theirs}.self_attn.sinks", tensors[f"{ours}.sinks"]
        yield from dense(f"{ours}.qkv", f"{theirs}.self_attn.q_proj", slice(0, q))
        yield from dense(f"{ours}.qkv", f"{theirs}.self_attn.k_proj", slice(q, q + kv))
        yield from dense(f"{ours}.qkv", f"{theirs}.self_attn.v_proj", slice(q + kv, q + 2 * kv))
        yield from dense(f"{ours}.o", f"{theirs}.self_attn.o_proj")
        yield from dense(f"{ours}.router", f"{theirs}.mlp.router")
        for part in ("weight", "scales", "bias"):
            both = tensors[f"{ours}.experts.gate_up.{part}"]
            yield f"{theirs}.mlp.experts.gate_proj.{part}", mx.contiguous(both[:, 0::2])
            yield f"{theirs}.mlp.experts.up_proj.{part}", mx.contiguous(both[:, 1::2])
            yield f"{theirs}.mlp.experts.down_proj.{part}", tensors[f"{ours}.experts.down.{part}"]


def mlx_lm_caches(model: Any, every: Sequence[Sequence[mx.array]]) -> list[Any]:
    """Return mlx-lm's caches with the same keys and values, all sequences in one batch."""
    caches = model.make_cache()
    for number, cache in enumerate(caches):
        kv = mx.concatenate([layers[number] for layers in every], axis=1)
        length = kv.shape[3]
        window = getattr(cache, "max_size", None)
        held = kv[..., -window:, :] if window and length >= window else kv
        cache.keys, cache.values = held[0], held[1]
        cache.offset = length
        if window:
            cache._idx = held.shape[3]
        mx.eval(cache.keys, cache.values)
    return caches


def mlx_lm_stepper(model: Any, caches: list[Any]) -> Callable[[mx.array], mx.array]:
    """Return a greedy step of mlx-lm's."""
    return lambda tokens: mx.argmax(model(tokens[:, None], cache=caches)[:, -1], axis=-1)


def steps(
    config: ModelConfig, dense: str, positions: Sequence[int], batches: Sequence[int], **how: int
) -> Iterator[dict]:
    """Yield a line for each number of positions and sequences: milliseconds of a step, ours and mlx-lm's, and how far
    their logits are apart, as a part of ours: both are bfloat16, and may choose other experts. What raises is a line
    too."""
    tensors = drawn(config, dense)
    ours = Decoder(config, assembled(config, tensors))
    theirs: Any = None
    for length in positions:
        for batch in batches:
            every = kept(config, length, batch)
            line: dict[str, Any] = {"dense": dense, "positions": length, "batch": batch}
            tokens = mx.arange(batch, dtype=mx.uint32)
            logits = other = None
            try:
                caches = caches_of(config, every)
                logits = ours.logits(ours.decode(tokens, caches).x)
                line["ours_ms"], line["ours_host_ms"] = timed(stepper(ours, caches), batch, **how)
            except (RuntimeError, ValueError) as error:
                line["ours_error"] = str(error)
            try:
                theirs = theirs or mlx_lm_model(config, tensors)
                their_caches = mlx_lm_caches(theirs, every)
                other = theirs(tokens[:, None], cache=their_caches)[:, -1]
                step = mlx_lm_stepper(theirs, their_caches)
                line["mlx_lm_ms"], line["mlx_lm_host_ms"] = timed(step, batch, **how)
            except (RuntimeError, ValueError, ImportError) as error:
                line["mlx_lm_error"] = str(error)
            if logits is not None and other is not None:
                line["apart"] = (mx.linalg.norm(logits - other) / mx.linalg.norm(logits)).item()
            mx.clear_cache()
            yield line


def large(config: ModelConfig, dense: str, tokens: int = TOKENS) -> dict[str, Any]:
    """Return what loading weights of this shape and decoding some tokens takes: seconds, bytes, the peak."""
    start = time.perf_counter()
    tensors = drawn(config, dense)
    model = Decoder(config, assembled(config, tensors))
    loaded = time.perf_counter()
    cache = KVCache.empty(config)
    token = mx.zeros((1,), mx.uint32)
    chosen = []
    finite = True
    for _ in range(tokens):
        token, witness = model.greedy(model.decode(token, [cache]).x)
        finite &= bool(np.isfinite(np.array(witness)).all())
        chosen.append(int(token.item()))
    return {
        "bytes": sum(array.nbytes for array in tensors.values()),
        "loaded_s": loaded - start,
        "tokens": len(chosen),
        "different": len(set(chosen)),
        "finite": finite,
        "decoding_s": time.perf_counter() - loaded,
        "peak": mx.get_peak_memory(),
    }


def replies(folder: Path, goldens: Path) -> dict[str, Any]:
    """Return how many of the bundled model's golden replies the runtime gives, and which of the shaders plain MLX has
    replaced."""
    from gptoss_mlx import runtime

    model = runtime.load(folder, dtype="float32")
    cases = json.loads(goldens.read_text())["cases"]
    right = [list(model.generate(case["prompt"], max_tokens=200, temperature=0.0)) == case["reply"] for case in cases]
    return {"replies": len(right), "right": sum(right), "replaced": replaced(), "ran": ran()}


def ran() -> list[str]:
    """Return the shaders that have run at the place that is set."""
    place = launch.where()
    shaders = sorted(path.stem for path in launch.FOLDER.glob("*.metal"))
    return [s for s in shaders if place in launch.PLACES and launch.kernel_at(s, str(place)).compiled]


def replaced() -> list[str]:
    """Return the shaders whose work plain MLX does instead."""
    place = launch.where()
    shaders = sorted(path.stem for path in launch.FOLDER.glob("*.metal"))
    return [s for s in shaders if place in launch.PLACES and launch.kernel_at(s, str(place)).broken]


def compared(place: str, every: Sequence[comparison.Shapes] = comparison.PUBLISHED) -> list[dict[str, Any]]:
    """Return how far each shader is from plain MLX, as ``doctor --kernels`` does."""
    found = [one for shapes in every for one in comparison.compare(lambda made: launch.run(made, place), shapes)]
    return [{"what": one.what, "error": one.error, "allowed": one.allowed, "right": one.agrees} for one in found]


def main() -> None:
    part, out, *rest = sys.argv[1:]
    about = {"mlx": comparison.machine(), "device": str(mx.default_device()), "shaders": launch.where()}
    found: Any
    if part == "compare":
        found = compared(str(launch.where()))
    elif part == "replies":
        found = replies(*map(Path, rest))
    elif part == "steps":
        found = []
        for line in steps(model_config(24, 32), rest[0], POSITIONS, BATCHES):
            found.append(line | {"replaced": replaced()})
            Path(out).write_text(json.dumps(about | {"found": found}))  # as far as it came
    elif part == "large":
        found = large(model_config(36, 128), "q8") | {"replaced": replaced()}
    else:
        sys.exit(f"no part {part!r}")
    Path(out).write_text(json.dumps(about | {"found": found}))


if __name__ == "__main__":
    main()
