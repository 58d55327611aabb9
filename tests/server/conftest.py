"""The real server, once for each process of tests, and the official clients."""

import anthropic
import openai
import pytest

from gptoss_mlx.harmony import Tokenizer
from tests.support.harmony_streams import encode
from tests.support.served import scripted_server, serving


@pytest.fixture(scope="session")
def server():
    with serving("--model", "tiny", "--max-concurrency", "4") as process:
        yield process


@pytest.fixture(scope="session")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def claude(server):
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def tokenizer():
    return Tokenizer.bundled()


@pytest.fixture
def scripted(tokenizer):
    """Make a function that serves a model which says these replies, written in pieces as for ``encode``."""

    def serve(*replies, **options):
        ids = [encode(reply, tokenizer.special, tokenizer.encode) for reply in replies]
        return scripted_server(tokenizer, *ids, **options)

    return serve


@pytest.fixture
def openai_at():
    """Make OpenAI's client of a scripted server."""
    return lambda there: openai.OpenAI(base_url=f"{there.url}/v1", api_key="none", max_retries=0, timeout=60)


@pytest.fixture
def anthropic_at():
    """Make Anthropic's client of a scripted server."""
    return lambda there: anthropic.Anthropic(base_url=there.url, api_key="none", max_retries=0, timeout=60)
