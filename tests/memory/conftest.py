import pytest

from tests.support.checkpoints import SMALL
from tests.support.models import random_model


@pytest.fixture(scope="package")
def runtime(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp("memory"), SMALL, seed=11)
