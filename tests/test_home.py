"""Where models live and what they are called."""

from pathlib import Path

import pytest

from gptoss_mlx.errors import UsageError
from gptoss_mlx.home import model_name, models_dir


def test_models_live_under_the_environments_choice_or_the_cache(monkeypatch):
    monkeypatch.setenv("GPTOSS_MAC_HOME", "/somewhere")
    assert models_dir() == Path("/somewhere/models")
    monkeypatch.delenv("GPTOSS_MAC_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert models_dir() == Path("/home/me/.cache/gptoss-mac/models")


def test_a_home_of_nobody_is_refused(monkeypatch):
    monkeypatch.setenv("GPTOSS_MAC_HOME", "~nobody-of-that-name/models")
    with pytest.raises(UsageError, match="GPTOSS_MAC_HOME"):
        models_dir()


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/models/gpt-oss-20b", "20b"),
        ("/models/gpt-oss-20b/", "20b"),
        ("/models/gpt-oss-120b/original", "120b"),
        ("/hub/models--openai--gpt-oss-20b/snapshots/6cee5e81ee83917806bbde320786a8fb61efebee", "20b"),
        ("/hub/models--openai--gpt-oss-120b/snapshots/abc/original", "120b"),
        ("/models/my finetune (v2)", "my-finetune-v2"),
        ("/models/gpt-oss-20b-finetuned", "gpt-oss-20b-finetuned"),
        ("/models/..hidden", "hidden"),
        ("/models/_mine", "mine"),
        ("/", "model"),
        ("/models/gpt-oss-20b-mxfp4.gguf", "gpt-oss-20b-mxfp4"),
        ("/models/gpt-oss-120b-mxfp4-00002-of-00003.gguf", "gpt-oss-120b-mxfp4"),
        ("/hub/models--ggml-org--gpt-oss-20b-GGUF/snapshots/abc/gpt-oss-20b.gguf", "20b"),
        ("/models/.gguf", "model"),
        ("gpt-oss:20b", "20b"),
        ("ollama:gpt-oss:120b", "120b"),
        ("ollama:hf.co/unsloth/gpt-oss-20b-GGUF:F16", "gpt-oss-20b-GGUF-F16"),
    ],
)
def test_a_model_is_named_after_its_checkpoint(source, name):
    assert model_name(Path(source)) == name
