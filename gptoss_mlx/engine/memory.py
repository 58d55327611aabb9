"""How many bytes a sequence's cache takes, by arithmetic on the model's sizes, and how many are free."""

import os
import re
from pathlib import Path

import mlx.core as mx

from gptoss_mlx.config import FULL, ModelConfig
from gptoss_mlx.model.cache import TAIL


def cache_bytes(config: ModelConfig, positions: int, dtype: mx.Dtype) -> int:
    """Keys and values of one sequence of ``positions``: all of them in full layers, the window in sliding ones, and a
    tail in each.

    Full layers allocate ahead: what is held may be a 24th, or 256 positions, more.
    """
    full = config.layer_types.count(FULL)
    sliding = config.num_hidden_layers - full
    rows = full * positions + sliding * min(positions, config.sliding_window - 1) + (full + sliding) * TAIL
    return rows * 2 * config.num_key_value_heads * config.head_dim * dtype.size


def free_bytes() -> int:
    """What more may be allocated now without swapping, as far as the machine says.

    On Metal the recommended working set less what is held; on Linux MemAvailable; elsewhere half of physical memory.
    """
    if mx.metal.is_available():
        return max(0, int(mx.device_info()["max_recommended_working_set_size"]) - mx.get_active_memory())
    try:
        available = re.search(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        available = None
    return int(available[1]) * 1024 if available else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
