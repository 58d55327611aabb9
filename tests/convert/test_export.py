"""A model folder becomes a checkpoint again: with every published bit, and what was lost is said."""

import json

import mlx.core as mx
import numpy as np
import pytest
from safetensors import safe_open

import convert.export
from convert import convert as convert_checkpoint
from convert.export import export
from gptoss_mlx.errors import ModelFolderError, StorageError
from gptoss_mlx.harmony import Tokenizer
from gptoss_mlx.model_folder import ModelFolder
from tests.batch.conftest import SMALLER
from tests.convert.test_conversion import rewrite
from tests.support.checkpoints import SMALL, from_bf16, hf_config, hf_tensors, write_checkpoint
from tests.support.cli import run_cli
from tests.support.model_folders import array_of

SIZES = SMALL | {"num_hidden_layers": 2}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("source") / "hf", SIZES)


@pytest.fixture(scope="module")
def model(checkpoint, tmp_path_factory):
    return ModelFolder.open(
        convert_checkpoint(checkpoint, tmp_path_factory.mktemp("bf16") / "model", dense="bf16").destination
    )


def tensors_in(folder):
    """Return (dtype, bits) of every tensor of every file by name, as MLX reads them and safetensors lists them."""
    found = {}
    for path in folder.glob("*.safetensors"):
        tensors, metadata = mx.load(str(path), return_metadata=True)
        with safe_open(path, "numpy") as shard:
            assert set(shard.keys()) == set(tensors)
        assert metadata == {"format": "pt"}
        assert not found.keys() & tensors.keys()
        for name, value in tensors.items():
            bits = value.view(mx.uint16) if value.dtype == mx.bfloat16 else value
            found[name] = (str(value.dtype).removeprefix("mlx.core."), np.array(bits))
    return found


def assert_published(folder, sizes):
    found = tensors_in(folder)
    for name, dtype, bits in hf_tensors(sizes):
        kind, ours = found.pop(name)
        assert (kind, ours.shape) == ({"BF16": "bfloat16", "U8": "uint8"}[dtype], bits.shape)
        assert np.array_equal(ours, bits), name
    assert not found


@pytest.mark.parametrize("layout", ["hf", "original"])
def test_every_tensor_is_the_published_one(tmp_path, layout):
    source = write_checkpoint(tmp_path / "source", SIZES, layout)
    folder = convert_checkpoint(source, tmp_path / "model", dense="bf16").destination
    seen = []
    done = export(ModelFolder.open(folder), tmp_path / "out", lambda *step: seen.append(step))
    assert_published(tmp_path / "out", SIZES)
    total = sum(bits.nbytes for _, _, bits in hf_tensors(SIZES))
    assert (seen[-1], done.tensors, done.files) == ((total, total), 41, 1)
    assert done.bytes_written == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    without = ("no tokenizer.json: the model folder has no tokenizer",)
    assert done.losses == {"hf": (), "original": without}[layout]


def test_it_converts_to_the_same_bytes_again(model, tmp_path):
    export(model, tmp_path / "out")
    again = convert_checkpoint(tmp_path / "out", tmp_path / "again", dense="bf16")
    assert (again.unknown_fields, again.losses, again.tokenizer) == ((), (), "checkpoint")
    names = {path.name for path in model.path.iterdir()} - {"manifest.json"}
    assert len(names) == 8
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (model.path / name).read_bytes(), name


def test_files_stay_below_their_limit_and_an_index_lists_them(model, tmp_path, monkeypatch):
    monkeypatch.setattr(convert.export, "SHARD_BYTES", 500_000)
    monkeypatch.setattr(convert.export, "BLOCK_BYTES", 10_000)
    done = export(model, tmp_path / "out")
    assert_published(tmp_path / "out", SIZES)
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert files == [f"model-{n:05d}-of-00005.safetensors" for n in range(1, 6)]
    assert done.files == 5
    assert all((tmp_path / "out" / file).stat().st_size < 510_000 for file in files)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(bits.nbytes for _, _, bits in hf_tensors(SIZES))
    assert set(index["weight_map"]) == {name for name, _, _ in hf_tensors(SIZES)}
    convert_checkpoint(tmp_path / "out", tmp_path / "again")


def test_the_config_says_what_transformers_needs(model, tmp_path):
    export(model, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    published = hf_config(SIZES)
    rope = config.pop("rope_scaling")
    assert rope == published.pop("rope_scaling") | {"attention_factor": 1.3465735902799727}
    assert config["quantization_config"].pop("modules_to_not_convert")
    stops = model.generation["eos_token_id"]
    published |= {"eos_token_id": stops[0], "pad_token_id": model.generation["pad_token_id"]}
    without = ("initial_context_length", "experts_per_token", "attention_dropout")  # transformers' defaults, or unused
    assert config.pop("torch_dtype") == "bfloat16"
    assert config == {name: value for name, value in published.items() if name not in without}
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == model.generation


def test_q8_becomes_the_nearest_bfloat16_of_what_mlx_decodes_and_that_is_said(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(convert.export, "BLOCK_BYTES", 10_000)
    q8 = ModelFolder.open(convert_checkpoint(checkpoint, tmp_path / "q8").destination)
    done = export(q8, tmp_path / "out")
    assert done.losses == ("6 dense matrices (720,896 values) are bfloat16 again, but keep the rounding to 8 bits",)
    found = tensors_in(tmp_path / "out")
    layer = "model.layers.1.self_attn"
    qkv = np.concatenate([found[f"{layer}.{letter}_proj.weight"][1] for letter in "qkv"])
    matrices = {"embedding": found["model.embed_tokens.weight"][1], "layers.1.qkv": qkv}
    matrices |= {"layers.1.o": found[f"{layer}.o_proj.weight"][1], "head": found["lm_head.weight"][1]}
    for stem, ours in matrices.items():
        weight, scales, biases = (mx.array(array_of(q8, f"{stem}.{kind}")) for kind in ("weight", "scales", "biases"))
        wide = [mx.array(from_bf16(np.array(bits))) for bits in (scales, biases)]
        decoded = mx.dequantize(weight, *wide, group_size=64, bits=8).astype(mx.bfloat16)
        assert np.array_equal(ours, np.array(decoded.view(mx.uint16))), stem
    quantized = {name for name in found if name.endswith(("_proj.weight", "embed_tokens.weight", "lm_head.weight"))}
    for name, _, bits in hf_tensors(SIZES):
        if name not in quantized:
            assert np.array_equal(found[name][1], bits), name


def test_float32_norms_stay_float32(tmp_path):
    source = write_checkpoint(tmp_path / "original", SIZES, "original")
    rewrite(source / "model.safetensors", as_float32={"norm.scale", "block.0.attn.norm.scale"})
    folder = convert_checkpoint(source, tmp_path / "model").destination
    export(ModelFolder.open(folder), tmp_path / "out")
    found = tensors_in(tmp_path / "out")
    assert found["model.norm.weight"][0] == found["model.layers.0.input_layernorm.weight"][0] == "float32"
    assert found["model.layers.1.input_layernorm.weight"][0] == "bfloat16"
    convert_checkpoint(tmp_path / "out", tmp_path / "again")
    for name in ("model-head.safetensors", "model-layer-000.safetensors"):
        compared = [ModelFolder.open(path).manifest["tensors"] for path in (folder, tmp_path / "again")]
        norms = [{n: t for n, t in tensors.items() if "norm" in n} for tensors in compared]
        assert norms[0] == norms[1], name


@pytest.mark.parametrize("name", ["head.scales", "layers.1.qkv.bias", "layers.0.experts.down.weight"])
def test_a_damaged_model_is_not_exported(checkpoint, tmp_path, name):
    folder = convert_checkpoint(checkpoint, tmp_path / "model").destination
    model = ModelFolder.open(folder)
    with model.file_of(name).open("r+b") as file:
        file.seek(model.tensor(name).offset)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(ModelFolderError, match=rf"tensor '{name}' is damaged; convert the model again"):
        export(model, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_an_interrupt_or_a_place_that_is_taken_leaves_nothing_of_ours(model, tmp_path):
    def interrupt(done, total):
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(model, tmp_path / "new" / "out", interrupt)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").write_text("mine")
    with pytest.raises(StorageError, match="exists already"):
        export(model, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_command_exports_an_installed_model_beside_and_says_what_is_lost(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    source = write_checkpoint(tmp_path / "hf", SMALLER)
    convert_checkpoint(source, tmp_path / "home" / "models" / "20b")
    code, out, _ = run_cli("convert", "--to", "hf", "gpt-oss:20b")
    assert code == 0
    first, exact, lost, template = out.splitlines()
    assert first.startswith("20b-hf: 41 tensors in 1 file, ")
    assert exact == "experts, router, norms and sinks bit for bit as in the model folder"
    assert lost.startswith("lost: 6 dense matrices (")
    assert template.startswith("no chat template is written; ")
    ours, theirs = (Tokenizer.from_file(folder / "tokenizer.json") for folder in (tmp_path / "20b-hf", source))
    assert ours.digest == theirs.digest
    for option in (["--dense", "q8"], ["--keep-source"]):
        code, out, err = run_cli("convert", "--to", "hf", "20b", *option, "--out", tmp_path / "other")
        assert (code, out) == (2, "")
        assert err.startswith("gptoss-mac: --dense and --keep-source are for making a model folder; ")
    assert run_cli("convert", "--to", "hf", "120b", "--out", tmp_path / "other")[0] == 4
    assert not (tmp_path / "other").exists()
