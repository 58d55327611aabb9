"""What keys and values take in memory, in bytes, by sizes alone: of one sequence, and of one conversation. Allocates
nothing."""

import mlx.core as mx

from gptoss_mlx.config import FULL, ModelConfig
from gptoss_mlx.engine.context import MARKS
from gptoss_mlx.model.cache import GROWTH, SHARE, TAIL


def cache_bytes(config: ModelConfig, positions: int, dtype: mx.Dtype) -> int:
    """Return the bytes of the keys and values of one sequence of ``positions``: all of them in full layers, the window
    in sliding ones, and a tail in each. A full layer allocates ahead, so that a cache may hold a 24th, or 256
    positions, more."""
    full = config.layer_types.count(FULL)
    sliding = config.num_hidden_layers - full
    rows = full * positions + sliding * min(positions, config.sliding_window - 1) + (full + sliding) * TAIL
    return rows * _row_bytes(config, dtype)


def sequence_bytes(config: ModelConfig, positions: int, dtype: mx.Dtype) -> int:
    """Return the bytes of one conversation of ``positions``: its cache, what full layers allocate ahead, and its marks.
    A mark holds the sliding layers' bodies and all tails."""
    ahead = config.layer_types.count(FULL) * max(GROWTH, positions // SHARE) * _row_bytes(config, dtype)
    sliding = config.num_hidden_layers - config.layer_types.count(FULL)
    window = sliding * (config.sliding_window - 1) * _row_bytes(config, dtype)
    marks = MARKS * (window + cache_bytes(config, 0, dtype))
    return cache_bytes(config, positions, dtype) + ahead + marks


def _row_bytes(config: ModelConfig, dtype: mx.Dtype) -> int:
    """Return the bytes of one position's keys and values in one layer."""
    return 2 * config.num_key_value_heads * config.head_dim * dtype.size
