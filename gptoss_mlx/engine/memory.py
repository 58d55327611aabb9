"""How many bytes a sequence's cache takes: arithmetic on the model's sizes, for admission and for reports."""

import mlx.core as mx

from gptoss_mlx.config import FULL, ModelConfig


def cache_bytes(config: ModelConfig, positions: int, dtype: mx.Dtype) -> int:
    """Keys and values of one sequence of ``positions``: all of them in full layers, the window in sliding ones.

    Full layers allocate ahead: what is held may be up to 4,096 positions, or twice as many while there are few, more.
    """
    full = config.layer_types.count(FULL)
    sliding = config.num_hidden_layers - full
    rows = full * positions + sliding * min(positions, config.sliding_window - 1)
    return rows * 2 * config.num_key_value_heads * config.head_dim * dtype.size
