"""A model folder's arrays as the decoder wants them. Knows tensor names and dtypes; the maths is elsewhere."""

from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.model_folder import ModelFolder
from metal_kernels.reference import Dense, Experts


@dataclass
class LayerWeights:
    """One decoder layer. Norms, sinks and the router are float32; dense layers and biases have the model's dtype."""

    attn_norm: mx.array  # [H]
    qkv: Dense  # [(N + 2M) * D, H]
    sinks: mx.array  # [N]
    o: Dense  # [H, N * D]
    mlp_norm: mx.array  # [H]
    router: Dense  # [E, H]
    slots: mx.array  # [E] int32: where each expert lies in the two below
    gate_up: Experts  # [E, 2I, H]
    down: Experts  # [E, H, I]


@dataclass
class Weights:
    embedding: Dense  # [V, H], kept as stored: rows are cast after they are picked
    layers: list[LayerWeights]
    norm: mx.array  # [H]
    head: Dense  # [V, H]


def load_weights(folder: ModelFolder, dtype: mx.Dtype, progress: Callable[[int], None] | None = None) -> Weights:
    """Read every tensor. ``progress`` is told the bytes of each as it is read."""

    def array(name: str, to: mx.Dtype | None = None) -> mx.array:
        raw = folder.array(name)
        out = mx.array(raw)
        if folder.dtype(name) == "BF16":
            out = out.view(mx.bfloat16)
        if to is not None:
            out = out.astype(to)
        mx.eval(out)  # one tensor at a time: the sources of casts would otherwise all be alive at once
        if progress is not None:
            progress(raw.nbytes)
        return out

    def dense(name: str, to: mx.Dtype | None = dtype) -> Dense:
        has = names.__contains__
        bias = array(f"{name}.bias", to) if has(f"{name}.bias") else None
        if has(f"{name}.scales"):
            return Dense(array(f"{name}.weight"), bias, array(f"{name}.scales", to), array(f"{name}.biases", to))
        return Dense(array(f"{name}.weight", to), bias)

    def experts(name: str) -> Experts:
        return Experts(array(f"{name}.weight"), array(f"{name}.scales"), array(f"{name}.bias", dtype))

    def layer(name: str) -> LayerWeights:
        return LayerWeights(
            attn_norm=array(f"{name}.attn_norm.weight", mx.float32),
            qkv=dense(f"{name}.qkv"),
            sinks=array(f"{name}.sinks", mx.float32),
            o=dense(f"{name}.o"),
            mlp_norm=array(f"{name}.mlp_norm.weight", mx.float32),
            router=dense(f"{name}.router", mx.float32),
            slots=mx.array(np.arange(folder.config.num_local_experts, dtype=np.int32)),
            gate_up=experts(f"{name}.experts.gate_up"),
            down=experts(f"{name}.experts.down"),
        )

    names = set(folder.names())
    config: ModelConfig = folder.config
    return Weights(
        embedding=dense("embedding", None),
        layers=[layer(f"layers.{n}") for n in range(config.num_hidden_layers)],
        norm=array("norm.weight", mx.float32),
        head=dense("head"),
    )
