"""Writes kernel-report.md: what the shaders read at the published size, counted in the emulator, and their errors, with
MLX's kernels on the same weights beside them; and their registers, by NVIDIA's compiler.

Run as ``python -m tests.metal_kernels.kernel_report [FILE]``. Nothing in it was measured on a GPU.
"""

import sys
from pathlib import Path

from gptoss_mlx.config import ModelConfig
from metal_kernels.cuda import nvrtc
from tests.metal_kernels.shaders import dense_rows, expert_rows, prompts, registers
from tests.metal_kernels.shaders.row import SEVERAL, Row, Several
from tests.metal_kernels.shaders.suites import SUITES
from tests.support import decode_graph

FILE = Path(__file__).parent.parent.parent / "kernel-report.md"


def table(rows: list[Row]) -> str:
    """Return the report's text on the shaders."""
    lines = [
        "# The shaders, counted",
        "",
        "Written by `make kernel-report`. One row through one layer of gpt-oss-20b, whose sizes are 120b's but for the",
        "number of experts, and through 2,048 rows of the head; half activations, bf16 biases and cache. Weights of",
        "attention are keys and values.",
        "Emulated: nothing here was measured on a GPU. MB issued are those of all loads, ours as the source has",
        "them, those of MLX's kernel as clang leaves them. Errors are of float32 outputs against float64, the largest",
        "and the root mean square, as parts of the largest value, of the experts the mean over twelve inputs (three",
        "for 120b); what is around MLX's product is plain MLX in float32.",
        "",
        "Waits are how often lanes meet, at a simd operation or a barrier, with loads since they last did: the most of",
        "one simdgroup. Loads of a loop in which they do not meet are one. Four threadgroups share a key/value head of",
        "a window or of up to 1,024 keys. With one, a window was 8 threadgroups that waited 10 times. With splits that",
        "a second shader joins it would be a launch more in every layer.",
        "",
        "| shader | issued MB | weights | unique / fewest | loads per weight | lines | threadgroups | waits | error | "
        "MLX issued MB | MLX error |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        stock = ("", "") if row.stock_issued is None else (f"{row.stock_issued / 1e6:.2f}", str(row.stock_error))
        loads = f"{row.loads_per_weight:.0f}" if row.weights else ""
        lines.append(
            f"| {row.operation} | {row.total / 1e6:.2f} | {row.weights / 1e6:.2f} | {row.unique_to_fewest:.2f} | "
            f"{loads} | {row.lines} | {row.threadgroups} | {row.waits} | {row.error} | {stock[0]} | {stock[1]} |"
        )
    lines += ["", "Bytes issued, by input:", ""]
    for row in rows:
        lines.append(f"- {row.operation}: " + ", ".join(f"{name} {count}" for name, count in row.issued.items()))
    return "\n".join(lines) + "\n"


def several_rows() -> str:
    """Return the report's text on loads where several rows go through a shader at once."""
    found: dict[str, list[Several]] = {}
    for one in (*dense_rows.several(), *expert_rows.several()):
        found.setdefault(one.operation, []).append(one)
    counts = [f"{rows} row{'s' * (rows > 1)}" for rows in SEVERAL]
    lines = [
        "",
        "# Several rows",
        "",
        "How often each weight is loaded, and MB issued in all, when several rows go through a shader at once.",
        "",
        "A simdgroup of a dense shader loads and opens a weight once for up to four rows, in registers. Eight rows are",
        "two tiles of four in one threadgroup. Tiles of eight rows would leave registers for half as many rows of the",
        "matrix, so x would be loaded twice as often: for norm_qkv_rope in bf16 118 MB of x, 7 of norm and 29 of",
        "weights, where two tiles load 59, 7 and 59. A second round of q8 in flight was refused: it takes 128",
        "registers, not 60, so half as many threads have twice the bytes in flight. A second round of experts' codes",
        "in flight was written and only compiled: expert_gate_up stays at 80 registers, because the compiler moves the",
        "loads behind the products, and expert_down_residual takes 101, not 80. No card has timed it: it was left out.",
        "",
        "Rows of experts choose at random here, and load their experts for themselves. The grid runs over choices and",
        "rows first, so rows that choose one expert load the same 24 KB of it at about the same time, and memory is",
        "read once. Sharing in registers would save what this table has beyond 1, from the cache. But every simdgroup",
        "would have to route every row, and to hold sums for rows that mostly chose other experts. It was refused.",
        "",
        "| shader | " + " | ".join(counts) + " |",
        "|---" * (1 + len(counts)) + "|",
    ]
    for operation, each in found.items():
        cells = [f"{one.loads_per_weight:.2f}, {one.issued / 1e6:.1f} MB" for one in each]
        lines.append(f"| {operation} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def decode_step() -> str:
    """Return the report's text on launches and commits a token, from recordings of the decoder at the published
    shapes."""
    lines = [
        "",
        "# A decode step, recorded",
        "",
        "One greedy step, traced without a GPU: every primitive is looked up, an unknown one fails the count. Commits",
        "are simulated by MLX 0.32's rule: after 40 or 50 operations, or as many times 2^20 elements of buffers it had",
        "not met, by chip.",
        "",
        "| model | dense | after | a sliding and a full layer | a token | commits: base, pro | max, ultra |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, (layers, experts) in {"20b": (24, 32), "120b": (36, 128)}.items():
        config = ModelConfig(num_hidden_layers=0, num_local_experts=experts)
        config = decode_graph.with_layers(config, decode_graph.alternating(layers))
        for dense in ("q8", "bf16"):
            for length in (1023, 1024, 131_071):
                nodes = decode_graph.record(config, dense, length)
                two = decode_graph.per_layer(config, dense, length).total()
                found = [decode_graph.commits(nodes, limits) for limits in decode_graph.LIMITS.values()]
                every = decode_graph.dispatches(nodes).total()
                lines.append(f"| {model} | {dense} | {length:,} | {two} | {every} | {found[0]} | {found[1]} |")
    lines += [
        "",
        "mlx-lm 0.32.2 has 39 a layer, counted by hand and not recorded: 17 for attention (mlx_lm/models/gpt_oss.py,",
        "lines 88 to 104, 158 and 160), 22 for the experts (lines 129 to 138, 163 and 165, and what they call in",
        "mlx_lm/models/switch_layers.py).",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    try:
        text = registers.table()  # first, because it may be absent
    except nvrtc.Absent as error:
        sys.exit(str(error))
    text = table([row for suite in SUITES for row in suite.rows()]) + several_rows() + text
    text += decode_step() + prompts.report()
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else FILE
    file.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
