"""Copies of a published model are found where other programs keep them, and nothing is read that they may not name."""

import json
import os
from pathlib import Path

import pytest

from convert.local import Found, find_local, ollama_model, resolve_source
from convert.sources import open_checkpoint
from gptoss_mlx.errors import CheckpointError
from tests.support.checkpoints import SMALL, write_checkpoint
from tests.support.gguf_checkpoint import Type, write_gguf
from tests.support.random_checkpoint import tokenizer_of

SIZES = SMALL | {"num_hidden_layers": 1}
DIGEST = "0123456789abcdef" * 4
REVISION = "6cee5e81ee83917806bbde320786a8fb61efebee"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for name in (
        "GPTOSS_MAC_HOME",
        "HF_HUB_CACHE",
        "HUGGINGFACE_HUB_CACHE",
        "HF_HOME",
        "XDG_CACHE_HOME",
        "OLLAMA_MODELS",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "m.gguf"
    return write_gguf(path, SIZES, tokenizer_of(SIZES), dense=Type.BF16)


@pytest.fixture(scope="module")
def lossy(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "m.gguf", SIZES, tokenizer_of(SIZES))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("hf") / "source", SIZES)


def cached(hub: Path, repo: str, files: Path, revision: str = REVISION) -> Path:
    """Put a file, or the files of a folder, into a Hub cache as huggingface_hub does: links to blobs."""
    repository = hub / f"models--{repo.replace('/', '--')}"
    snapshot = repository / "snapshots" / revision
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(REVISION)
    for file in files.iterdir() if files.is_dir() else [files]:
        (snapshot / file.name).symlink_to(file)
    return snapshot


def placed(path: Path, file: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.link(file, path)
    return path


def pulled(models: Path, name: str, file: Path | None, digest: str = DIGEST, **changes) -> Path:
    """Put a model into ollama's folder as ``ollama pull`` does."""
    layers = [
        {"mediaType": "application/vnd.ollama.image.license", "digest": "sha256:" + "f" * 64, "size": 1},
        {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}", "size": 1} | changes,
    ]
    manifest = models / "manifests" / name
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "config": {}, "layers": layers}))
    blob = models / "blobs" / f"sha256-{digest}"
    if file:
        placed(blob, file)
    return blob


def test_nothing_is_found_where_no_program_was():
    assert find_local("20b") == find_local("120b") == []
    assert resolve_source("openai/gpt-oss-20b") is None
    assert resolve_source("gpt-oss:20b") is None


def test_copies_of_every_program_are_found_the_exact_ones_first(home, gguf, lossy, folder):
    hub = home / ".cache" / "huggingface" / "hub"
    snapshot = cached(hub, "openai/gpt-oss-20b", folder)
    blob = pulled(home / ".ollama" / "models", "registry.ollama.ai/library/gpt-oss/20b", gguf)
    studio = placed(home / ".lmstudio/models/lmstudio-community/gpt-oss-20b-GGUF/gpt-oss-20b-MXFP4.gguf", lossy)
    size = open_checkpoint(gguf).nbytes
    assert find_local("20b") == [
        Found(
            snapshot,
            "openai/gpt-oss-20b in the Hugging Face cache (Hugging Face)",
            open_checkpoint(folder).nbytes,
            (),
        ),
        Found(blob, "gpt-oss:20b in ollama (GGUF)", size, ()),
        Found(
            studio,
            "lmstudio-community/gpt-oss-20b-GGUF in LM Studio (GGUF)",
            open_checkpoint(lossy).nbytes,
            open_checkpoint(lossy).losses({}),
        ),
    ]
    assert find_local("120b") == []


@pytest.mark.parametrize(
    ("variable", "below"),
    [("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub"), ("XDG_CACHE_HOME", "huggingface/hub")],
)
def test_the_hubs_cache_lies_where_its_variables_say(tmp_path, monkeypatch, folder, variable, below):
    monkeypatch.setenv(variable, str(tmp_path / "elsewhere"))
    snapshot = cached(tmp_path / "elsewhere" / below, "openai/gpt-oss-120b", folder)
    assert [found.path for found in find_local("120b")] == [snapshot]
    assert resolve_source("openai/gpt-oss-120b") == snapshot


def test_the_revision_of_the_main_branch_is_taken(home, folder):
    hub = home / ".cache" / "huggingface" / "hub"
    main = cached(hub, "openai/gpt-oss-20b", folder)
    cached(hub, "openai/gpt-oss-20b", folder, revision="f" * 40)
    assert [found.path for found in find_local("20b")] == [main]


@pytest.mark.parametrize("where", [".lmstudio", ".cache/lm-studio", "Library/Application Support/LM Studio"])
def test_lm_studios_settings_may_name_another_folder(home, tmp_path, gguf, where):
    (home / where).mkdir(parents=True)
    (home / where / "settings.json").write_text(json.dumps({"downloadsFolder": str(tmp_path / "disk")}))
    copy = placed(tmp_path / "disk" / "ggml-org" / "gpt-oss-20b-GGUF" / "gpt-oss-20b-mxfp4.gguf", gguf)
    assert [found.path for found in find_local("20b")] == [copy]
    assert resolve_source("ggml-org/gpt-oss-20b-GGUF") == copy


def test_lm_studios_home_may_be_elsewhere(home, tmp_path, gguf):
    home.mkdir()
    (home / ".lmstudio-home-pointer").write_text(f"{tmp_path / 'studio'}\n")
    copy = placed(tmp_path / "studio" / "models" / "ggml-org" / "gpt-oss-20b-GGUF" / "gpt-oss-20b-mxfp4.gguf", gguf)
    assert [found.path for found in find_local("20b")] == [copy]


def test_a_model_in_parts_is_found_once(home, tmp_path):
    copy = home / ".lmstudio" / "models" / "ggml-org" / "gpt-oss-120b-GGUF"
    copy.mkdir(parents=True)
    write_gguf(copy / "gpt-oss-120b-mxfp4.gguf", SIZES, tokenizer_of(SIZES), tensors_in_part=9)
    assert [found.path.name for found in find_local("120b")] == ["gpt-oss-120b-mxfp4-00001-of-00003.gguf"]


@pytest.mark.parametrize(
    "repo",
    [
        "openai/gpt-oss-120b",
        "openai/gpt-oss-20b-finetuned",
        "unsloth/gpt-oss-safeguard-20b",
        "mlx-community/gpt-oss-20b-abliterated-4bit",
        "somebody/gpt-oss-20b",
    ],
)
def test_what_is_not_the_published_model_is_not_offered(home, folder, repo):
    cached(home / ".cache" / "huggingface" / "hub", repo, folder)
    assert find_local("20b") == []


def test_what_cannot_be_converted_is_not_offered(home, folder, gguf):
    hub = home / ".cache" / "huggingface" / "hub"
    snapshot = cached(hub, "openai/gpt-oss-20b", folder)
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").write_bytes(b"half of it")
    broken = home / ".lmstudio" / "models" / "ggml-org" / "gpt-oss-20b-GGUF" / "m.gguf"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(gguf.read_bytes()[:-1000])
    assert find_local("20b") == []


def test_ollamas_names_are_those_of_its_own_commands(home, gguf, monkeypatch, tmp_path):
    models = tmp_path / "ollama"
    monkeypatch.setenv("OLLAMA_MODELS", str(models))
    library = pulled(models, "registry.ollama.ai/library/gpt-oss/20b", gguf)
    own = pulled(models, "registry.ollama.ai/me/mine/latest", gguf, digest="a" * 64)
    hub = pulled(models, "hf.co/unsloth/gpt-oss-20b-GGUF/F16", gguf, digest="b" * 64)
    assert ollama_model("gpt-oss:20b") == ollama_model("library/gpt-oss:20b") == library
    assert ollama_model("registry.ollama.ai/library/gpt-oss:20b") == library
    assert ollama_model("me/mine") == own
    assert ollama_model("gpt-oss") is None
    assert resolve_source("gpt-oss:20b") == resolve_source("ollama:gpt-oss:20b") == library
    assert resolve_source("ollama:hf.co/unsloth/gpt-oss-20b-GGUF:F16") == hub
    assert {found.path for found in find_local("20b")} == {library, hub}
    assert open_checkpoint(library).layout == "GGUF"
    with pytest.raises(CheckpointError, match=r"ollama has no model 'gpt-oss:120b' in .*ollama; run: ollama pull"):
        resolve_source("ollama:gpt-oss:120b")


@pytest.mark.parametrize(
    "name",
    [
        "",
        ":",
        "../../../no/such",
        "a/../b:c",
        "/gpt-oss:20b",
        "a/b/c/d:e",
        "gpt-oss:..",
        ".:20b",
        "x" * 5000,
        "a\0b:c",
    ],
)
def test_a_name_that_ollama_would_not_take_is_no_model(home, gguf, name):
    pulled(home / ".ollama" / "models", "registry.ollama.ai/library/gpt-oss/20b", gguf)
    assert ollama_model(name) is None
    assert resolve_source(name) is None


@pytest.mark.parametrize(
    "digest",
    ["../../secret", "sha256:../../secret", "sha256:" + "0" * 63, "sha512:" + "0" * 64, None, ["x"], "A" * 10**6],
)
def test_a_manifest_may_only_name_a_blob_by_its_hash(home, gguf, digest):
    placed(home / "secret", gguf)
    pulled(home / ".ollama" / "models", "registry.ollama.ai/library/gpt-oss/20b", None, **{"digest": digest})
    assert ollama_model("gpt-oss:20b") is None


def test_a_blob_that_links_elsewhere_is_not_followed(home, gguf):
    models = home / ".ollama" / "models"
    blob = pulled(models, "registry.ollama.ai/library/gpt-oss/20b", None)
    blob.parent.mkdir()
    blob.symlink_to(gguf)
    assert ollama_model("gpt-oss:20b") is None
    assert find_local("20b") == []


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "[" * 100_000, '{"layers": 1}', '{"layers": [1, {}]}', "\xff", "x" * (2 << 20)]
)
def test_a_damaged_manifest_is_no_model(home, text):
    manifest = home / ".ollama" / "models" / "manifests" / "registry.ollama.ai" / "library" / "gpt-oss" / "20b"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(text, encoding="latin-1")
    assert ollama_model("gpt-oss:20b") is None


def test_a_manifest_that_never_ends_is_not_waited_for(home):
    manifest = home / ".ollama" / "models" / "manifests" / "registry.ollama.ai" / "library" / "gpt-oss" / "20b"
    manifest.parent.mkdir(parents=True)
    os.mkfifo(manifest)
    assert ollama_model("gpt-oss:20b") is None


def test_a_path_means_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "openai" / "gpt-oss-20b").mkdir(parents=True)
    assert resolve_source("openai/gpt-oss-20b") == Path("openai/gpt-oss-20b")
