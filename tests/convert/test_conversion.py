"""A converted checkpoint has the published weights, for both layouts and any sharding."""

import hashlib
import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors import safe_open

from convert import convert, pieces
from convert.repack import blocks_from_words
from gptoss_mlx.harmony import Tokenizer
from gptoss_mlx.model_folder import ModelFolder
from tests.support.checkpoints import SMALL, WINDOW_64, from_bf16, hf_tensors, write_checkpoint
from tests.support.model_folders import array_of, dtype_of
from tests.support.tokenizers import small_tokenizer_json, write_json

SIZES = SMALL | {"num_hidden_layers": 2}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("source") / "hf", SIZES)


@pytest.fixture(scope="module")
def published():
    """Return the checkpoint's weights as bits, by their Hugging Face names."""
    return {name: bits for name, _, bits in hf_tensors(SIZES)}


@pytest.fixture(scope="module", params=["q8", "bf16"])
def converted(request, checkpoint, tmp_path_factory):
    destination = tmp_path_factory.mktemp(request.param) / "model"
    return convert(checkpoint, destination, dense=request.param)


def shard_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


def test_both_layouts_in_any_sharding_give_the_same_bytes(converted, tmp_path):
    expected = shard_bytes(converted.destination)
    assert len(expected) == 4
    for layout, shards in (("hf", 3), ("original", 1), ("original", 5)):
        source = write_checkpoint(tmp_path / f"{layout}{shards}", SIZES, layout, shards)
        report = convert(source, tmp_path / f"{layout}{shards}-out", dense=converted.dense)
        assert report.layout == {"hf": "Hugging Face", "original": "original"}[layout]
        assert shard_bytes(report.destination) == expected, (layout, shards)


def test_expert_bytes_come_back_through_the_safetensors_library(converted, published):
    for n in range(2):
        with safe_open(converted.destination / f"model-layer-{n:03d}.safetensors", "numpy") as shard:
            for ours, theirs in (("gate_up", "gate_up_proj"), ("down", "down_proj")):
                stem = f"layers.{n}.experts.{ours}"
                source = f"model.layers.{n}.mlp.experts.{theirs}"
                words = shard.get_tensor(f"{stem}.weight")
                scales = shard.get_tensor(f"{stem}.scales")
                assert np.array_equal(blocks_from_words(words), published[f"{source}_blocks"])
                assert np.array_equal(scales, published[f"{source}_scales"])


UNTOUCHED = {
    "layers.1.attn_norm.weight": "model.layers.1.input_layernorm.weight",
    "layers.1.mlp_norm.weight": "model.layers.1.post_attention_layernorm.weight",
    "layers.1.sinks": "model.layers.1.self_attn.sinks",
    "layers.1.o.bias": "model.layers.1.self_attn.o_proj.bias",
    "layers.1.router.weight": "model.layers.1.mlp.router.weight",
    "layers.1.router.bias": "model.layers.1.mlp.router.bias",
    "layers.1.experts.gate_up.bias": "model.layers.1.mlp.experts.gate_up_proj_bias",
    "layers.1.experts.down.bias": "model.layers.1.mlp.experts.down_proj_bias",
    "norm.weight": "model.norm.weight",
}


def test_router_norms_sinks_and_biases_are_untouched(converted, published):
    model = ModelFolder.open(converted.destination)
    for ours, theirs in UNTOUCHED.items():
        assert dtype_of(model, ours) == "BF16"
        assert np.array_equal(array_of(model, ours), published[theirs]), ours
    qkv = [published[f"model.layers.1.self_attn.{letter}_proj.bias"] for letter in "qkv"]
    assert np.array_equal(array_of(model, "layers.1.qkv.bias"), np.concatenate(qkv))


def test_large_matrices_are_as_published_or_q8(converted, published):
    model = ModelFolder.open(converted.destination)
    attention = "model.layers.1.self_attn"
    matrices = {
        "embedding": published["model.embed_tokens.weight"],
        "layers.1.qkv": np.concatenate([published[f"{attention}.{letter}_proj.weight"] for letter in "qkv"]),
        "layers.1.o": published[f"{attention}.o_proj.weight"],
        "head": published["lm_head.weight"],
    }
    for name, bits in matrices.items():
        if converted.dense == "bf16":
            assert np.array_equal(array_of(model, f"{name}.weight"), bits)
            continue
        weight, scales, biases = (
            mx.array(array_of(model, f"{name}.{kind}")) for kind in ("weight", "scales", "biases")
        )
        scales, biases = (bf16.view(mx.bfloat16).astype(mx.float32) for bf16 in (scales, biases))
        decoded = mx.dequantize(weight, scales, biases, group_size=64, bits=8)
        error = np.array(decoded) - from_bf16(bits)
        assert np.linalg.norm(error) / np.linalg.norm(from_bf16(bits)) < 0.006, name


def test_a_cut_into_many_blocks_changes_nothing(converted, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "BLOCK_BYTES", 1000)
    seen = []
    report = convert(checkpoint, tmp_path / "out", dense=converted.dense, progress=lambda *step: seen.append(step))
    assert shard_bytes(tmp_path / "out") == shard_bytes(converted.destination)
    assert len(seen) > 1000
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (report.bytes_read, report.bytes_read)


def test_the_manifest_holds_the_hash_of_every_tensor_here_and_at_the_source(converted, published):
    model = ModelFolder.open(converted.destination)
    model.verify()
    for name in model.names():
        digest = hashlib.sha256(array_of(model, name).tobytes()).hexdigest()
        assert model.manifest["tensors"][name]["sha256"] == digest
    source = model.manifest["source"]
    assert (source["layout"], source["folder"]) == ("Hugging Face", "hf")
    assert source["sha256"] == {name: hashlib.sha256(bits.tobytes()).hexdigest() for name, bits in published.items()}
    assert model.manifest["tool"].startswith("gptoss-mac 0")


def test_a_matrix_whose_columns_64_does_not_divide_stays_bf16(tmp_path):
    source = write_checkpoint(tmp_path / "hf", WINDOW_64 | {"num_hidden_layers": 1})
    model = ModelFolder.open(convert(source, tmp_path / "out").destination)
    assert dtype_of(model, "head.weight") == dtype_of(model, "layers.0.qkv.weight") == "BF16"  # hidden is 160
    assert dtype_of(model, "layers.0.o.weight") == "U32"  # 8 heads of 32


def test_float32_norms_stay_float32(tmp_path):
    source = write_checkpoint(tmp_path / "original", SIZES | {"num_hidden_layers": 1}, "original")
    rewrite(source / "model.safetensors", as_float32={"norm.scale", "block.0.attn.norm.scale"})
    model = ModelFolder.open(convert(source, tmp_path / "out").destination)
    assert dtype_of(model, "norm.weight") == dtype_of(model, "layers.0.attn_norm.weight") == "F32"
    assert dtype_of(model, "layers.0.mlp_norm.weight") == "BF16"
    expected = {name: bits for name, _, bits in hf_tensors(SIZES | {"num_hidden_layers": 1})}
    assert np.array_equal(array_of(model, "norm.weight"), from_bf16(expected["model.norm.weight"]))


def rewrite(path: Path, as_float32: set[str]) -> None:
    from gptoss_mlx.errors import CheckpointError
    from gptoss_mlx.model_folder.safetensors import read_header
    from tests.support.checkpoints import write_safetensors

    data = path.read_bytes()
    tensors = []
    numpy_dtype = {"BF16": np.uint16, "U8": np.uint8}
    for name, tensor in read_header(path, CheckpointError, "").items():
        bits = np.frombuffer(
            data, numpy_dtype[tensor.dtype], tensor.nbytes // numpy_dtype[tensor.dtype]().itemsize, tensor.offset
        ).reshape(tensor.shape)
        wide = name in as_float32
        tensors.append((name, "F32" if wide else tensor.dtype, from_bf16(bits) if wide else bits))
    write_safetensors(path, tensors)


def test_the_config_and_generation_defaults_are_the_checkpoints(converted, checkpoint):
    model = ModelFolder.open(converted.destination)
    assert model.config == converted.config
    assert model.generation == json.loads((checkpoint / "generation_config.json").read_text())


def test_the_tokenizer_is_the_checkpoints(converted, checkpoint):
    ours = Tokenizer.load(ModelFolder.open(converted.destination).tokenizer_path)
    assert converted.tokenizer == "checkpoint"
    assert ours.digest == Tokenizer.from_file(checkpoint / "tokenizer.json").digest


def test_without_a_tokenizer_the_published_one_is_bundled_if_it_fits(tmp_path):
    large = SIZES | {"num_hidden_layers": 1, "hidden_size": 32, "vocab_size": 201088}
    source = write_checkpoint(tmp_path / "original", large, "original")
    report = convert(source, tmp_path / "out")
    model = ModelFolder.open(report.destination)
    assert report.tokenizer == "bundled"
    assert Tokenizer.load(model.tokenizer_path).digest == Tokenizer.bundled().digest
    # As in the published generation_config.json.
    assert model.generation == {
        "bos_token_id": 199998,
        "do_sample": True,
        "eos_token_id": [200002, 199999, 200012],
        "pad_token_id": 199999,
    }


def test_without_a_tokenizer_that_fits_the_model_takes_ids_only(tmp_path):
    source = write_checkpoint(tmp_path / "original", SIZES, "original")
    report = convert(source, tmp_path / "out")
    assert report.tokenizer is None
    assert ModelFolder.open(report.destination).tokenizer_path is None


def test_original_is_found_inside_a_repository_and_uses_its_tokenizer(tmp_path, checkpoint):
    write_checkpoint(tmp_path / "repo" / "original", SIZES, "original")
    shutil.copy(checkpoint / "tokenizer.json", tmp_path / "repo")
    report = convert(tmp_path / "repo", tmp_path / "out")
    assert (report.layout, report.tokenizer) == ("original", "checkpoint")


def test_a_repository_with_both_layouts_is_read_as_hugging_face(tmp_path):
    write_checkpoint(tmp_path / "repo", SIZES)
    write_checkpoint(tmp_path / "repo" / "original", SIZES, "original")
    assert convert(tmp_path / "repo", tmp_path / "out").layout == "Hugging Face"


def test_the_hub_caches_links_are_followed(tmp_path, checkpoint):
    snapshot = tmp_path / "models--o--m" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for path in checkpoint.iterdir():
        (snapshot / path.name).symlink_to(path)
    convert(snapshot, tmp_path / "out")


def test_numbered_shards_without_an_index_are_read(tmp_path):
    source = write_checkpoint(tmp_path / "original", SIZES, "original", shards=3)
    (source / "model.safetensors.index.json").unlink()
    convert(source, tmp_path / "out")


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(tmp_path):
    from gptoss_mlx.errors import CheckpointError

    source = write_checkpoint(tmp_path / "hf", SIZES | {"vocab_size": 256})
    write_json(source / "tokenizer.json", small_tokenizer_json())
    with pytest.raises(CheckpointError, match=r"has ids up to 268, config.json's vocab_size is 256"):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
