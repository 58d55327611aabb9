"""What a chunk of a prompt costs on Metal, where its products are MLX's own, beside grouped products of ours that could
replace them. Counted in recordings of the decoder, and from tiles, which a slice of MLX's kernel in the emulator
confirms."""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from gptoss_mlx.config import ModelConfig
from metal_kernels import launch
from metal_kernels.emulator import BFloat16, Report
from metal_kernels.emulator.kernel import run_function
from metal_kernels.emulator.runner import Buffer
from tests.support import decode_graph, mlx_headers, prompt_graph

TOKENS = 2048
STOCK_TILE = (16, 32)
"""Rows of the input and of the matrix to a threadgroup of MLX 0.32.4's sorted gather_qmm, by the names of its kernels
(mlx.metallib). Tiles begin anew with each expert."""
OUR_TILE = (64, 64)
"""The tile that a shader of ours would have: 16 accumulators of 8 by 8 to each of four simdgroups. More would take more
registers than it has."""
ATTENTION_TILE = 32
"""Queries, and keys, to a step of MLX's attention with 64 dimensions (scaled_dot_product_attention.cpp)."""


@dataclass(frozen=True)
class Loads:
    """The bytes that the threadgroups of a grouped product load, of the input and of the weights, and how often they
    load and open each weight."""

    input: int
    weights: int
    opened: float


def loads(rows: tuple[int, ...], outputs: int, columns: int, tile: tuple[int, int]) -> Loads:
    """Return the loads of 16-bit rows, so many of each expert. A threadgroup has a tile of the product."""
    tiles = [-(-count // tile[0]) for count in rows]
    weights = outputs * columns // 32 * 17  # bytes of one expert
    return Loads(sum(rows) * columns * 2 * (outputs // tile[1]), sum(tiles) * weights, sum(tiles) / len(rows))


def slice_of_stock(rows: tuple[int, ...], outputs: int, columns: int) -> tuple[np.ndarray, np.ndarray, Report]:
    """Run MLX's ``fp_gather_qmm_rhs`` on random bf16 rows, so many of each expert. Return the product, the same in
    float64, and the report."""
    rng = np.random.default_rng(0)
    experts, many = len(rows), sum(rows)
    codes = rng.integers(0, 1 << 32, (experts, outputs, columns // 8), np.uint32)
    scales = rng.integers(118, 124, (experts, outputs, columns // 32), np.uint8)
    x = rng.integers(-4, 5, (many, columns)).astype(np.float32)
    y = np.zeros((many, outputs), np.uint16)
    arrays = {"x": BFloat16.of(x).bits, "w": codes, "scales": scales, "global_scale": np.zeros(1, np.float32)}
    arrays["offsets"] = np.cumsum([0, *rows[:-1]]).astype(np.int32)
    arrays["y"] = y
    sizes = {"M": many, "N": outputs, "K": columns, "num_groups": experts}
    arrays |= {name: np.array([value], np.int32) for name, value in sizes.items()}
    tiles = sum(-(-count // STOCK_TILE[0]) for count in rows)
    report = run_function(
        mlx_headers.kernel(
            ["steel/gemm/gemm.h", "quantized_utils.h", "fp_quantized.h"],
            "fp_gather_qmm_rhs",
            "bfloat16_t, 32, 4, 16, 32, 32, 1, 2, true, false",
        ),
        "fp_gather_qmm_rhs",
        (32 * outputs // STOCK_TILE[1], 2 * tiles, 1),
        (32, 2, 1),
        [Buffer(name, array, 2 if name == "y" else 0) for name, array in arrays.items()],
        mode="count",
        linted=False,
        as_written=False,
        constants={"align_M": many % STOCK_TILE[0] == 0, "align_N": True, "align_K": True},
    )
    decoded = mx.dequantize(mx.array(codes), mx.array(scales), group_size=32, bits=4, mode="mxfp4", dtype=mx.float32)
    of = np.repeat(np.arange(experts), rows)
    want = np.einsum("tc,trc->tr", x.astype(np.float64), np.array(decoded).astype(np.float64)[of])
    return (y.astype(np.uint32) << 16).view(np.float32).astype(np.float64), want, report


def report() -> str:
    """Return the kernel report's text on prompts."""
    config = ModelConfig(num_hidden_layers=0, num_local_experts=32)
    lines = [
        "",
        "# A prompt, counted",
        "",
        f"A chunk of {TOKENS:,} tokens through a sliding and a full layer of gpt-oss-20b, q8, recorded without a GPU.",
        "A sort counts as one dispatch. MB are what is read and written by all that is no product or attention.",
        "",
        "| around the experts' products | dispatches | MB | commits of 24 layers: base, pro | max, ultra |",
        "|---|---|---|---|---|",
    ]
    for what, plain in (("plain MLX", True), ("grouped_swiglu, grouped_sum", False)):
        for shader in ("grouped_swiglu", "grouped_sum"):
            launch.kernel_at(shader, "metal").broken = plain
        more, fewer = (_recorded(config, layers) for layers in (4, 2))
        launched = prompt_graph.dispatches(more).total() - prompt_graph.dispatches(fewer).total()
        moved = prompt_graph.moved(more).total() - prompt_graph.moved(fewer).total()
        nodes = [one.node for one in _recorded(config, 24)]
        commits = " | ".join(str(decode_graph.commits(nodes, limits)) for limits in decode_graph.LIMITS.values())
        lines.append(f"| {what} | {launched} | {moved / 1e6:,.0f} | {commits} |")
    return "\n".join([*lines, "", *_products(config), "", *_bands(config)]) + "\n"


def _products(config: ModelConfig) -> list[str]:
    even = (TOKENS * config.num_experts_per_tok // config.num_local_experts,) * config.num_local_experts
    H, inter = config.hidden_size, config.intermediate_size
    lines = [
        "The experts' products are MLX's sorted gather_qmm, in tiles of 16 rows and 32 of the matrix. Tiles of 64 and",
        "64 are the most that a shader of ours would have registers for. MB are what threadgroups load, from the cache",
        "but for the first time, with as many rows for each expert; `opened` is how often a weight is decoded.",
        "",
        "| product | MLX: MB of rows | of weights | opened | ours: MB of rows | of weights | opened | 8 x 8 products |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for what, outputs, columns in (("gate_up", 2 * inter, H), ("down", H, inter)):
        cells = []
        for tile in (STOCK_TILE, OUR_TILE):
            found = loads(even, outputs, columns, tile)
            cells.append(f"{found.input / 1e6:,.0f} | {found.weights / 1e6:,.0f} | {found.opened:.0f}")
        lines.append(f"| {what} | " + " | ".join(cells) + f" | {sum(even) * outputs * columns // 512:,} |")
    return [
        *lines,
        "",
        "Ours would load less than half and open a weight a quarter as often. But the 8 x 8 products are the same. Of",
        "one weight with 256 rows they take a simdgroup 8 steps, at a product a lane and step. To open it takes about",
        "five instructions, for 32 weights at a time: 16 times 2.5 steps, four times 0.6. So ours could be faster by a",
        "fifth at most, and on an M5 not at all, where MLX has the neural accelerators (fp_quantized_nax.h). MLX's",
        "products stay, until a Mac or a card says otherwise. What is around them was more than half of the MB above,",
        "on every chip, and has shaders.",
    ]


def _bands(config: ModelConfig) -> list[str]:
    window = config.sliding_window
    blocks = -(-TOKENS // ATTENTION_TILE)
    per_band = window // ATTENTION_TILE * -(-(2 * window - 1) // ATTENTION_TILE)
    bands = TOKENS // window * per_band
    fewest = blocks * -(-(window + ATTENTION_TILE - 1) // ATTENTION_TILE)
    whole = blocks * -(-(TOKENS + window - 1) // ATTENTION_TILE)
    block = f"{ATTENTION_TILE} queries and {ATTENTION_TILE} keys"
    return [
        f"A sliding layer's queries go in bands of {window}, each over its own keys, with MLX's attention. In blocks",
        f"of {block} that is {bands} to a head, where one call with a mask would take {whole:,},",
        f"and no fewer than {fewest} are needed. All bands but the first share one mask.",
    ]


def _recorded(config: ModelConfig, layers: int) -> list[prompt_graph.Primitive]:
    return prompt_graph.record(decode_graph.with_layers(config, decode_graph.alternating(layers)), "q8", TOKENS)
