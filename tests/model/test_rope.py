"""YaRN without rounding its bounds to whole dimensions."""

import numpy as np
import pytest

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.model.rope import attention_scale, inverse_frequencies


@pytest.mark.parametrize(
    ("index", "value"),
    [(0, 1.0), (8, 5.081327e-2), (9, 3.170570e-2), (17, 1.293187e-4), (18, 3.830881e-5), (31, 3.023511e-7)],
)
def test_published_frequencies(index, value):
    """The values are the reference implementation's. Bounds rounded to 8 and 18 would move 9 to 17 by up to 40%."""
    config = ModelConfig(num_hidden_layers=24, num_local_experts=32)
    np.testing.assert_allclose(inverse_frequencies(config)[index], value, rtol=5e-7)


def test_concentration_is_squared_into_the_attention_scale():
    config = ModelConfig(num_hidden_layers=24, num_local_experts=32)
    assert attention_scale(config) == pytest.approx(1.3465735902799727**2 / 8, rel=1e-12)
