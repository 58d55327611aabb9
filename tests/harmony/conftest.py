import pytest

from gptoss_mlx.harmony import Tokenizer
from tests.support.tokenizers import small_tokenizer_json, write_json


@pytest.fixture(scope="session")
def published() -> Tokenizer:
    """The vocabulary of gpt-oss-20b and -120b."""
    return Tokenizer.bundled()


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Tokenizer:
    """Another vocabulary, of 269 ids, with the same markers."""
    return Tokenizer.from_file(write_json(tmp_path_factory.mktemp("small") / "tokenizer.json", small_tokenizer_json()))
