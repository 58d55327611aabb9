import pytest

from gptoss_mlx.grammars import Vocabulary
from gptoss_mlx.harmony import Tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer.bundled()


@pytest.fixture(scope="session")
def vocabulary(tokenizer):
    """The published vocabulary."""
    return Vocabulary(tokenizer)
