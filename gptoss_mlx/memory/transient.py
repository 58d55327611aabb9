"""What a step holds beside weights and caches, in bytes, by the sizes of its arrays. Allocates nothing.

The sums follow the code: ``model.decoder``, ``model.attention`` and ``model.moe`` for what is alive together, and
``metal_kernels/cpu/native`` for the buffers that the native library keeps. They are compared with measured peaks. Those
for Metal and for plain MLX follow the same order of operations, and nothing has measured them.
"""

from typing import Literal

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.model.cache import GROWTH, SHARE
from gptoss_mlx.model.weights import DTYPES, usual_dtype

Backend = Literal["metal", "cpu", "plain"]
"""Where a model runs: Metal, the native CPU library, or plain MLX on its CPU backend."""

FLOAT = 4
SMALL = 4 << 20
"""Bytes below which an operation of the native library makes an array in numpy and copies it."""
BLOCK, PIECE, MOST_ROWS = 64, 768, 512
"""The native library's ``products.h``: rows of a weight, columns and rows of x that a thread has open at a time."""
KEYS = 64
"""Its ``attention.h``: keys of a step."""
PAIR_BYTES = 4 + 4 + 4 + 8
"""Its ``experts.h``: what it notes of each row's choice of an expert."""
IN_FLIGHT = 2
"""Layers whose arrays are alive together on Metal: MLX commits about two command buffers a layer, and frees what a
buffer used when it has run."""


def transient_bytes(config: ModelConfig, backend: Backend, chunk: int, context: int, rows: int, threads: int) -> int:
    """Return the most bytes alive at once beside weights and caches: while ``chunk`` positions of a prompt are read
    that ends at ``context``, or while ``rows`` sequences decode. ``threads`` are the native library's."""
    chunk = min(chunk, context)
    reading = _reading(config, backend, chunk, context)
    if backend == "cpu":
        reading += _arenas(config, chunk, threads)
    return max(reading, _decoding(config, rows))


def growth_bytes(config: ModelConfig, context: int, size: int) -> int:
    """Return what one full layer's body holds twice while it grows to ``context``, with the room that is added, in
    values of ``size`` bytes."""
    row = 2 * config.num_key_value_heads * config.head_dim * size
    return (context + max(GROWTH, context // SHARE)) * row


def _reading(config: ModelConfig, backend: Backend, chunk: int, context: int) -> int:
    """Return the bytes of MLX's arrays while a chunk is read: the larger of attention's and the experts' part."""
    H, inter = config.hidden_size, config.intermediate_size
    E, K = config.num_local_experts, config.num_experts_per_tok
    N, M, D = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    size = DTYPES[usual_dtype(backend == "metal")].size  # of keys, values and what experts are given
    rows = chunk * H * FLOAT
    # The residual stream, that of the chunk before, which is dropped when this one is done, and cos and sin.
    stream = 2 * rows + chunk * D * FLOAT
    q = chunk * N * D * FLOAT
    kv = chunk * 2 * M * D * size
    seen = min(context, config.sliding_window - 1 + chunk) * 2 * M * D * size
    attended = chunk * N * D * size
    growing = growth_bytes(config, context, size) if context > chunk else 0
    attention = stream + q + kv + max(seen + attended + rows, growing)
    mixture = stream + rows + chunk * E * FLOAT + rows
    if backend == "cpu":
        copied = max((nbytes for nbytes in (rows, q, kv) if nbytes < SMALL), default=0)
        return max(attention, mixture) + copied
    pairs = chunk * K
    # Rows in their experts' order, gate_up with its biases, what is activated, and down with its biases.
    mixture += pairs * size * (H + 5 * inter + 2 * H) + pairs * H * FLOAT
    if backend == "metal":
        return IN_FLIGHT * (max(attention - growing, mixture)) + growing
    scores = 2 * chunk * context * N * FLOAT  # MLX's CPU backend writes them out, and their softmax
    opened = max((N + 2 * M) * D, N * D) * H * FLOAT  # a quantized matrix as floats
    return max(attention + max(scores, opened), mixture)


def _decoding(config: ModelConfig, rows: int) -> int:
    """Return the bytes of a step of ``rows`` sequences: logits, what a draw makes of one row, and each row's arrays."""
    vocabulary = config.vocab_size
    drawn = vocabulary * 64  # ids, likelihoods, their order and sums: eight arrays of 8 bytes
    return rows * (2 * vocabulary * FLOAT + 8 * config.hidden_size * FLOAT) + drawn


def _arenas(config: ModelConfig, chunk: int, threads: int) -> int:
    """Return the bytes of the buffers that the native library keeps. It asks for a quarter more, and does not touch
    it."""
    H, inter = config.hidden_size, config.intermediate_size
    pairs = chunk * config.num_experts_per_tok
    shared = (chunk * H + pairs * (inter + H)) * FLOAT + pairs * PAIR_BYTES
    group = config.num_attention_heads // config.num_key_value_heads
    queries = (2 * config.head_dim + KEYS + 4) * min(256, chunk * group) * FLOAT
    opened = (BLOCK * min(PIECE, max(H, inter)) + min(chunk, MOST_ROWS) * BLOCK) * FLOAT
    return shared + threads * max(queries, opened)
