"""How many bytes a sequence's cache takes, by the model's sizes, and how many are free. Allocates nothing."""

import os
import re
from pathlib import Path

import mlx.core as mx

from gptoss_mlx.config import FULL, ModelConfig
from gptoss_mlx.model.cache import TAIL


def cache_bytes(config: ModelConfig, positions: int, dtype: mx.Dtype) -> int:
    """Return the bytes of the keys and values of one sequence of ``positions``: all of them in full layers, the window
    in sliding ones, and a tail in each. A full layer allocates ahead, so that a cache may hold a 24th, or 256
    positions, more."""
    full = config.layer_types.count(FULL)
    sliding = config.num_hidden_layers - full
    rows = full * positions + sliding * min(positions, config.sliding_window - 1) + (full + sliding) * TAIL
    return rows * 2 * config.num_key_value_heads * config.head_dim * dtype.size


def free_bytes() -> int:
    """Return how many more bytes can be allocated now without swapping, by the machine's own account. On Metal that is
    the recommended working set less MLX's active memory, on Linux MemAvailable, and elsewhere half of the physical
    memory."""
    if mx.metal.is_available():
        return max(0, int(mx.device_info()["max_recommended_working_set_size"]) - mx.get_active_memory())
    try:
        available = re.search(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        available = None
    return int(available[1]) * 1024 if available else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
