"""Speeds of gpt-oss on Apple chips as their authors published them, with their sources. None was measured here."""

from dataclasses import dataclass

GB = 1e9


@dataclass(frozen=True)
class Published:
    """Decoded tokens a second of one sequence. ``dense`` is how dense weights are stored. ``context`` are the tokens
    already read, 0 where the source does not say. ``doubt`` says what is not certain of a row."""

    model: str
    dense: str
    chip: str
    rate: float
    engine: str
    source: str
    context: int = 0
    doubt: str = ""


WHOLE_REQUESTS = "an average over whole requests"

ROWS = (
    Published("20b", "q8", "M1 Pro", 37.05, "llama.cpp 2026-02", "mlx-lm issue 858", 14_700),
    Published("20b", "q8", "M2 Pro", 50.4, "llama.cpp", "llmfit PR 1031", doubt=WHOLE_REQUESTS),
    Published("20b", "q8", "M2 Pro", 44.2, "mlx", "llmfit PR 1031", doubt=WHOLE_REQUESTS),
    Published("20b", "q8", "M2 Max", 86.0, "Rapid-MLX 0.10.5", "Rapid-MLX community benchmarks", 512),
    Published("20b", "q8", "M2 Max", 80.1, "Rapid-MLX 0.10.5", "Rapid-MLX community benchmarks", 2_000),
    Published("20b", "q4", "M2 Max", 91.5, "mlx-lm 0.27.0", "Jackrong's model card", 90),
    Published("20b", "q4", "M1 Ultra", 89.5, "mlx-lm 0.31.3", "mlxcel"),
    Published("20b", "q4", "M1 Ultra", 89.7, "mlxcel", "mlxcel"),
    Published("120b", "q4", "M1 Ultra", 57.6, "mlx-lm 0.31.3", "mlxcel"),
    Published("120b", "q4", "M1 Ultra", 58.4, "mlxcel", "mlxcel"),
    Published("20b", "q4", "M5 Max", 164.7, "mlx-lm 0.31.3", "mlxcel"),
    Published("20b", "q4", "M5 Max", 168.9, "mlxcel", "mlxcel"),
    Published("120b", "q4", "M5 Max", 110.8, "mlx-lm 0.31.3", "mlxcel"),
    Published("120b", "q4", "M5 Max", 113.6, "mlxcel", "mlxcel"),
    Published("20b", "q8", "M5 Max", 101.4, "ollama", "llmfit", doubt=WHOLE_REQUESTS),
    Published("20b", "q8", "M3 Ultra", 115.3, "ai-benchmarks", "geerlingguy/ai-benchmarks issue 42"),
    Published("20b", "q8", "M3 Ultra", 119.0, "Rapid-MLX 0.6.83", "Rapid-MLX's README"),
    Published("20b", "q8", "M3 Ultra", 79.0, "mlx-lm", "Rapid-MLX's roadmap"),
    Published("20b", "q8", "M4 Pro", 66.5, "llama.cpp", "llmfit", doubt=WHOLE_REQUESTS),
    Published("20b", "q4", "M4 Pro", 76.7, "mlx", "llmfit", doubt=WHOLE_REQUESTS),
    Published("20b", "q8", "M4 Pro", 51.0, "mlx-serve", "mlx-serve PR 168"),
    Published("20b", "q8", "M4", 20.5, "ollama", "llmfit PR 1026", doubt=WHOLE_REQUESTS),
    Published("20b", "q8", "M4", 24.5, "ollama", "llmfit PR 1013", doubt=WHOLE_REQUESTS),
    Published("20b", "q8", "M4", 26.0, "llama.cpp", "mlx-lm issue 644", doubt="12 layers' experts on the CPU"),
    Published("20b", "q8", "M2 Ultra", 132.9, "llama.cpp 2025-09", "llama.cpp PR 16057", doubt="the chip is likely"),
    Published("120b", "q8", "M4 Max", 81.3, "mlx", "a model card", 73),
    Published("120b", "q8", "M2 Max", 43.9, "MXFP4", "MoringLabs' model card", 1_000),
    Published("120b", "q8", "M2 Max", 38.1, "MXFP4", "MoringLabs' model card", 4_000),
    Published("120b", "q8", "M3 Ultra", 60.0, "LM Studio, MLX 0.25", "mlx-lm issue 432"),
)
"""Left out are totals of several streams (Rapid-MLX's README), an M4 at 6.9 that stands alone, and what is held out:
mlx-lm PR 1588 and oMLX, below."""

FIT_ROWS = tuple(row for row in ROWS if not row.doubt)
"""What the speed model is fitted to. An average over a request has its prompt in it, and no source says how long that
was. A likely chip and experts on the CPU are not what is predicted."""

BANDWIDTH = {
    "M1": 68, "M1 Pro": 200, "M1 Max": 400, "M1 Ultra": 800,
    "M2": 100, "M2 Pro": 200, "M2 Max": 400, "M2 Ultra": 800,
    "M3": 100, "M3 Pro": 150, "M3 Max": 400, "M3 Ultra": 819,
    "M4": 120, "M4 Pro": 273, "M4 Max": 546,
    "M5": 153, "M5 Pro": 307, "M5 Max": 614,
}  # fmt: skip
"""Memory bandwidth in GB/s by Apple's specifications. M3 Max and M4 Max also exist with fewer GPU cores, at 300 and
410."""

OMLX_HITS = ((0.0, 0.0), (0.125, 0.45), (0.25, 0.67), (0.5, 0.89), (1.0, 1.0))
"""The share of experts in memory and the hit rate, as oMLX published them for gemma-26b (its PR 2595), of whole
requests: a prompt of 585 tokens and 256 more. The two ends are by definition."""

OMLX_RATES = {0.5: 59.0, 0.25: 40.0, 0.125: 29.0, 1.0: 122.0}
"""oMLX's tokens a second of gemma-26b by the share in memory, with all of the file in the page cache. Held out of every
fit."""

OMLX_CHIP = "M5 Max"
"""What its author measured on, with 128 GB (FINDINGS.md of clausius, to which oMLX's documentation refers)."""

OMLX_PROMPTS = (
    (64_369, 16.60, 293), (30_302, 8.87, 147), (6_073, 2.38, 65),
    (2_913, 0.97, 8), (2_675, 0.85, 4), (1_719, 0.69, 2),
)  # fmt: skip
"""oMLX's prompts of 585 tokens with an eighth, a quarter and half of the experts in memory, before and after a change
(its MoE_Expert_Offload.md): experts read, seconds to the first token, and the parts in which each layer computed it.
Parts are of 2, 4 and 9 tokens, the first halves of 585 whose experts fit into the slots, and then of as many experts as
slots."""

OMLX_PROMPT = 0.30
"""Seconds to the first token with all of them in memory, by the same."""

PR_1588 = (8.7, 10.0)
"""mlx-lm PR 1588: 120b with 30% of its experts in memory on a Mac with 32 GB, before and after files were kept open.
Held out of every fit."""

MLX_VLM = (9.8e9, 20.3)
"""mlx-vlm PR 1813: 20b, q8, with experts paged on an M4 mini with 16 GB: its peak in bytes, and tokens a second. Held
out of every fit."""
