import pytest

from tests.support.checkpoints import SMALL
from tests.support.models import random_model

SMALLER = SMALL | {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 32, "num_attention_heads": 4}


@pytest.fixture(scope="package")
def runtime(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp("batch"), SMALLER, seed=41)
