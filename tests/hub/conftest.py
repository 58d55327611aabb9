"""A fake Hub with a small checkpoint, and an environment in which only it can be meant."""

import random

import huggingface_hub.constants
import pytest

from gptoss_mlx.hub import Settings
from tests.support.fake_hub import FakeHub, Stored

SIZE = 1_000_003
"""Bytes of the weights: no multiple of a piece."""

QUICK = Settings(piece=96 << 10, first_pause=0.01, timeout=5)


def checkpoint():
    weights = random.Random(1).randbytes(SIZE)
    return {
        ".gitattributes": Stored(b"*.safetensors filter=lfs\n", False),
        "README.md": Stored(b"# gpt-oss\n", False),
        "config.json": Stored(b'{"model_type": "gpt_oss"}\n' * 40, False),
        "generation_config.json": Stored(b"{}\n", False),
        "metal/model.bin": Stored(b"metal", True),
        "model-00000-of-00001.safetensors": Stored(weights, True),
        "model.safetensors.index.json": Stored(b'{"weight_map": {}}\n', False),
        "original/config.json": Stored(b"{}", False),
        "original/model.safetensors": Stored(b"original", True),
        "tokenizer.json": Stored(random.Random(2).randbytes(200_000), True),
    }


@pytest.fixture
def hub(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    with FakeHub(checkpoint()) as hub:
        yield hub
