"""Rotary positions with YaRN. In gpt-oss the bounds low and high are not rounded to whole dimensions.

Pure functions of the config and of positions. YaRN multiplies ``attention_factor`` into cos and sin. Here the attention
scale has it instead, squared: both q and k would have it, and sinks are added after scaling.
"""

import math

import numpy as np

from gptoss_mlx.config import ModelConfig


def inverse_frequencies(config: ModelConfig) -> np.ndarray:
    """Return the radians a position turns each pair of dimensions by, [D / 2] float32.

    The float32 steps are the reference's, because at position 5,000 a unit in the last place is 3e-4 rad.
    """
    dim = config.head_dim
    base = config.rope_theta
    yarn = config.rope_scaling
    frequency = (base ** (np.arange(0, dim, 2) / dim)).astype(np.float32)

    def dimension_of(rotations: float) -> float:
        """Return the dimension that turns ``rotations`` times over the original context."""
        return dim * math.log(yarn.original_max_position_embeddings / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low = dimension_of(yarn.beta_fast)
    high = dimension_of(yarn.beta_slow)
    if yarn.truncate:
        low = math.floor(low)
        high = math.ceil(high)
    low = max(low, 0.0)
    high = min(high, dim - 1.0)
    if low == high:
        high += 0.001
    ramp = np.clip((np.arange(dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low), 0, 1)
    extrapolated = np.float32(1) - ramp
    inverse = np.float32(1) / (np.float32(yarn.factor) * frequency) * (1 - extrapolated) + 1 / frequency * extrapolated
    return inverse.astype(np.float32)


def attention_scale(config: ModelConfig) -> float:
    """Return 1 / sqrt(D) times the square of YaRN's attention factor."""
    return config.head_dim**-0.5 * config.rope_scaling.attention_factor**2
