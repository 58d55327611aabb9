"""Random checkpoints hold the same weights in each layout, need little memory, and are whole or not there."""

import json
import subprocess
import sys
import time
import tracemalloc

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize

from gptoss_mlx.harmony import Tokenizer
from tests.support.checkpoints import SMALL, from_bf16, hf_plan
from tests.support.gguf_checkpoint import gguf_plan
from tests.support.random_checkpoint import write_random_checkpoint
from tests.test_imports import ROOT

FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
"""Values of the codes, from the MX specification."""


@pytest.fixture(scope="module")
def published():
    return {tensor.name: tensor for tensor in hf_plan(SMALL)}


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    return gguf.GGUFReader(write_random_checkpoint(tmp_path_factory.mktemp("gguf") / "m.gguf", SMALL, "gguf"))


@pytest.fixture(scope="module")
def theirs(reader):
    return {tensor.name: dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}


def experts(published, projection):
    """Return an expert matrix of layer 1 as float32 [experts, rows, columns], decoded as the specification says."""
    name = f"model.layers.1.mlp.experts.{projection}"
    blocks = published[f"{name}_blocks"].bits()
    codes = np.stack([blocks & 15, blocks >> 4], -1).reshape(*blocks.shape[:-1], 32)
    scales = np.exp2(published[f"{name}_scales"].bits().astype(np.float32) - 127)
    return (FP4[codes] * scales[..., None]).reshape(*blocks.shape[:2], -1)


def test_gguf_has_every_expert_weight_unchanged(published, theirs):
    both = experts(published, "gate_up_proj")
    assert np.array_equal(theirs["blk.1.ffn_gate_exps.weight"], both[:, 0::2])
    assert np.array_equal(theirs["blk.1.ffn_up_exps.weight"], both[:, 1::2])
    assert np.array_equal(theirs["blk.1.ffn_down_exps.weight"], experts(published, "down_proj"))
    bias = from_bf16(published["model.layers.1.mlp.experts.gate_up_proj_bias"].bits())
    assert np.array_equal(theirs["blk.1.ffn_gate_exps.bias"], bias[:, 0::2])
    assert np.array_equal(theirs["blk.1.ffn_up_exps.bias"], bias[:, 1::2])


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("output_norm.weight", "model.norm.weight"),
        ("blk.2.ffn_gate_inp.weight", "model.layers.2.mlp.router.weight"),
        ("blk.2.attn_sinks.weight", "model.layers.2.self_attn.sinks"),
        ("blk.2.attn_k.bias", "model.layers.2.self_attn.k_proj.bias"),
    ],
)
def test_gguf_has_small_tensors_in_float32(published, theirs, name, own):
    assert np.array_equal(theirs[name], from_bf16(published[own].bits()))


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output.weight", "lm_head.weight"),
        ("blk.3.attn_output.weight", "model.layers.3.self_attn.o_proj.weight"),
    ],
)
def test_gguf_has_dense_matrices_in_eight_bits(published, theirs, reader, name, own):
    assert next(tensor for tensor in reader.tensors if tensor.name == name).tensor_type.name == "Q8_0"
    values = from_bf16(published[own].bits())
    steps = np.abs(values).reshape(len(values), -1, 32).max(axis=-1, keepdims=True) / 127
    apart = np.abs(theirs[name] - values).reshape(len(values), -1, 32)
    assert (apart <= 0.57 * steps).all()  # half a step, and 127 times the rounding of a step to float16


def test_exact_gguf_has_the_same_weights_in_float32(theirs):
    plan = {tensor.name: tensor for tensor in gguf_plan(SMALL, exact=True)}
    assert {tensor.type.name for tensor in plan.values()} == {"F32"}
    for name in ("blk.0.ffn_gate_exps.weight", "blk.0.ffn_down_exps.weight", "blk.0.attn_sinks.weight"):
        assert np.array_equal(plan[name].data().view(np.float32), theirs[name]), name


def test_gguf_has_the_ids_of_the_checkpoints_tokenizer(reader, tmp_path):
    folder = write_random_checkpoint(tmp_path / "hf", SMALL)
    tokenizer = Tokenizer.from_file(folder / "tokenizer.json")
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    types = reader.fields["tokenizer.ggml.token_type"].contents()
    assert len(tokens) == SMALL["vocab_size"]
    for text, id in tokenizer.special.items():
        assert tokens[id] == text
        assert types[id] == gguf.TokenType.CONTROL
    (the,) = tokenizer.encode("the")
    assert tokens[the] == "the"
    assert types[the] == gguf.TokenType.NORMAL
    assert types[-1] == gguf.TokenType.UNUSED


def test_the_published_vocabulary_goes_where_it_fits(tmp_path):
    sizes = SMALL | {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "vocab_size": 201088}
    folder = write_random_checkpoint(tmp_path / "hf", sizes)
    assert Tokenizer.from_file(folder / "tokenizer.json").digest == Tokenizer.bundled().digest


@pytest.mark.parametrize("layout", ["hf", "original", "gguf"])
def test_one_tensor_is_in_memory_at_a_time(tmp_path, layout):
    sizes = SMALL | {"num_hidden_layers": 12, "hidden_size": 256, "intermediate_size": 512}
    largest = max(tensor.nbytes for tensor in hf_plan(sizes))
    total = sum(tensor.nbytes for tensor in hf_plan(sizes))
    assert total > 12 * largest
    tracemalloc.start()
    try:
        write_random_checkpoint(tmp_path / "out", sizes, layout)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5 * largest


@pytest.mark.parametrize("layout", ["hf", "gguf"])
def test_nothing_is_left_of_a_checkpoint_that_was_interrupted(tmp_path, layout):
    def stop(done, total):
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_random_checkpoint(tmp_path / "out", SMALL, layout, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_what_was_asked_for_and_never_over_anything(tmp_path):
    command = [sys.executable, "-m", "tests.support.random_checkpoint", "--shape", "tiny", "--layers", "2"]
    command += ["--size", "num_local_experts=5", "--shards", "3", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert (config["num_hidden_layers"], config["num_local_experts"]) == (2, 5)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 3
    assert "100%" in done.stderr
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 1
    assert again.stderr.splitlines()[-1].endswith("out exists; remove it, or write elsewhere")


def test_ctrl_c_leaves_nothing(tmp_path):
    command = [sys.executable, "-m", "tests.support.random_checkpoint", "--layers", "1", "--out", str(tmp_path / "out")]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) as running:
        deadline = time.monotonic() + 60
        while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.05)
        running.send_signal(2)
        assert running.wait(60) == 130
        assert running.stderr.read() == b""
    assert list(tmp_path.iterdir()) == []
