"""A folder that mlx-lm wrote becomes the model folder of the checkpoint that it was made from."""

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from convert import convert, pieces
from convert.verification import compare
from gptoss_mlx.errors import ModelFolderError
from gptoss_mlx.model_folder import ModelFolder
from tests.convert.test_bad_checkpoints import edit_header, refusal
from tests.convert.test_bf16 import assert_same_weights, logits, renamed
from tests.support import fine_tunes
from tests.support.checkpoints import SMALL, from_bf16, write_checkpoint
from tests.support.cli import run_cli
from tests.support.measure import relative_l2
from tests.support.model_folders import array_of, dtype_of

SIZES = SMALL | {"num_hidden_layers": 2}
MATRICES = {
    "embedding": ["model.embed_tokens"],
    "layers.1.qkv": [f"model.layers.1.self_attn.{letter}_proj" for letter in "qkv"],
    "layers.1.o": ["model.layers.1.self_attn.o_proj"],
    "head": ["lm_head"],
}
ROUTER = "model.layers.1.mlp.router"


def with_quantization(raw):
    """Give a config what mlx-lm adds to it."""
    kinds = {"group_size": 32, "bits": 4, "mode": "mxfp4", "lm_head": {"group_size": 64, "bits": 8, "mode": "affine"}}
    raw |= {"quantization": kinds, "quantization_config": kinds}


def write(folder: Path, **form) -> Path:
    return fine_tunes.write(folder, SIZES, fine_tunes.mlx_lm(SIZES, **form), with_quantization)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "hf", SIZES)


@pytest.fixture(scope="module")
def published(checkpoint, tmp_path_factory):
    return {
        dense: convert(checkpoint, tmp_path_factory.mktemp(dense) / "model", dense=dense).destination
        for dense in ("bf16", "q8")
    }


def shard_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}


@pytest.mark.parametrize("dense", ["bf16", "q8"])
def test_what_mlx_lm_did_not_quantize_is_the_checkpoint_byte_for_byte(published, tmp_path, dense):
    report = convert(write(tmp_path / "source"), tmp_path / "model", dense=dense)
    assert (report.layout, report.experts, report.losses) == ("mlx-lm", "MXFP4, bit for bit", ())
    assert report.unknown_fields == ()
    assert shard_bytes(report.destination) == shard_bytes(published[dense])
    ModelFolder.open(report.destination).verify()


def test_a_cut_into_many_blocks_changes_nothing(tmp_path, monkeypatch):
    source = write(tmp_path / "source", dense="q8")
    whole = convert(source, tmp_path / "whole")
    monkeypatch.setattr(pieces, "BLOCK_BYTES", 1000)
    assert shard_bytes(convert(source, tmp_path / "cut").destination) == shard_bytes(whole.destination)


@pytest.fixture(scope="module")
def eight_bits(tmp_path_factory):
    """Return a folder whose dense matrices have 8 bits, and its tensors."""
    source = write(tmp_path_factory.mktemp("eight") / "source", dense="q8")
    return source, {name: bits for name, _, bits in fine_tunes.mlx_lm(SIZES, dense="q8")}


def test_codes_of_8_bits_are_kept(eight_bits, published, tmp_path):
    source, tensors = eight_bits
    report = convert(source, tmp_path / "model", dense="q8")
    assert report.losses == (
        "8 tensors, such as embedding.weight, had 8 bits in the source already",
        "float32 values of 2 tensors, such as layers.0.router.weight, are rounded to bfloat16",
    )
    model = ModelFolder.open(report.destination)
    for ours, linears in MATRICES.items():
        for kind in ("weight", "scales", "biases"):
            expected = np.concatenate([tensors[f"{linear}.{kind}"] for linear in linears])
            assert np.array_equal(array_of(model, f"{ours}.{kind}"), expected), (ours, kind)
    experts = [name for name in model.names() if ".experts." in name]
    assert len(experts) == 12
    other = ModelFolder.open(published["q8"])
    assert all(np.array_equal(array_of(model, name), array_of(other, name)) for name in experts)


@pytest.mark.parametrize("dense", ["q8", "bf16"])
def test_a_model_is_verified_against_its_source(eight_bits, tmp_path, dense):
    model = ModelFolder.open(convert(eight_bits[0], tmp_path / "model", dense=dense).destination)
    found = compare(model, eight_bits[0])
    assert found.q8 == 0, "codes are compared bit for bit"
    assert found.exact == len(model.names()) - {"q8": 12, "bf16": 0}[dense]  # without scales and biases of their own
    for kind in ("weight", "scales", "biases"):
        tensors = [
            (n, d, b ^ np.eye(1, b.shape[1], 1, b.dtype) if n == f"lm_head.{kind}" else b)
            for n, d, b in fine_tunes.mlx_lm(SIZES, dense="q8")
        ]
        other = fine_tunes.write(tmp_path / kind, SIZES, tensors, with_quantization)
        with pytest.raises(ModelFolderError, match=r"tensor 'head\.weight' differs from"):
            compare(model, other)


def decoded(tensors: dict, linear: str) -> np.ndarray:
    """Decode by definition, in float32: a code times its group's scale, plus its bias."""
    codes = tensors[f"{linear}.weight"].view(np.uint8)
    scales, biases = (from_bf16(tensors[f"{linear}.{kind}"])[..., None] for kind in ("scales", "biases"))
    return (codes.reshape(*scales.shape[:2], -1) * scales + biases).reshape(codes.shape)


def test_8_bits_are_decoded_for_bf16_and_for_the_router(eight_bits, tmp_path):
    source, tensors = eight_bits
    model = ModelFolder.open(convert(source, tmp_path / "model", dense="bf16").destination)
    for ours, linears in (MATRICES | {"layers.1.router": [ROUTER]}).items():
        assert dtype_of(model, f"{ours}.weight") == "BF16"
        expected = np.concatenate([decoded(tensors, linear) for linear in linears])
        got = from_bf16(array_of(model, f"{ours}.weight"))
        assert np.all(np.abs(got - expected) <= np.abs(expected) * 2**-8 + 1e-12), ours  # half a step of bfloat16


def test_groups_that_are_not_ours_are_quantized_again(published, tmp_path):
    source = write(tmp_path / "source", dense="q8", group=32)
    tensors = {name: bits for name, _, bits in fine_tunes.mlx_lm(SIZES, dense="q8", group=32)}
    model = ModelFolder.open(convert(source, tmp_path / "model", dense="q8").destination)
    weight, scales, biases = (mx.array(array_of(model, f"head.{kind}")) for kind in ("weight", "scales", "biases"))
    scales, biases = (bits.view(mx.bfloat16).astype(mx.float32) for bits in (scales, biases))
    got = np.array(mx.dequantize(weight, scales, biases, group_size=64, bits=8))
    assert 0.001 < relative_l2(got, decoded(tensors, "lm_head")) < 0.006


def test_experts_in_full_become_mxfp4_again(published, tmp_path):
    report = convert(write(tmp_path / "source", experts="full"), tmp_path / "model", dense="bf16")
    assert report.experts == "MXFP4, quantized from bfloat16, every value kept"
    assert_same_weights(report.destination, published["bf16"])
    assert relative_l2(logits(report.destination), logits(published["bf16"])) < 1e-5


def test_half_precision_is_widened(published, tmp_path):
    tensors = [
        (n, "F16", from_bf16(b).astype(np.float16)) if d == "BF16" else (n, d, b)
        for n, d, b in fine_tunes.mlx_lm(SIZES)
    ]
    source = fine_tunes.write(tmp_path / "source", SIZES, tensors, with_quantization)
    report = convert(source, tmp_path / "model", dense="bf16")
    assert relative_l2(logits(report.destination), logits(published["bf16"])) < 1e-3


def test_the_summary_says_what_the_source_had_lost(eight_bits, tmp_path):
    code, out, _ = run_cli("convert", eight_bits[0], "--out", tmp_path / "model")
    assert code == 0
    lines = [line.rstrip() for line in out.splitlines()]
    assert "Source layout    mlx-lm" in lines
    assert "Experts          MXFP4, bit for bit" in lines
    lost = lines.index("Lost             8 tensors, such as embedding.weight, had 8 bits in the source already")
    assert lines[lost + 1].strip().startswith("float32 values of 2 tensors")


GATE = "model.layers.1.mlp.experts.gate_proj"


def reshaped(name, *shape, dtype=None):
    def edit(header):
        header[name].update(shape=list(shape), **({"dtype": dtype} if dtype else {}))

    return edit


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (reshaped(f"{GATE}.weight", 8, 128, 12), "is U32 [8, 128, 12], config.json needs U32 [8, 96, 16]"),
        (reshaped(f"{GATE}.weight", 8 * 96 * 16), "is U32 [12288], config.json needs U32 [8, 96, 16]"),
        (reshaped(f"{GATE}.weight", 8, 96, 16, dtype="I32"), "is I32 [8, 96, 16], config.json needs U32"),
        (reshaped(f"{GATE}.scales", 4, 8, 96), "is U8 [4, 8, 96], config.json needs U8 [8, 96, 4]"),
        (renamed(f"{GATE}.scales", "x"), f"tensor '{GATE}.scales' is missing"),
        (renamed(f"{GATE}.bias", "x"), f"tensor '{GATE}.bias' is missing"),
        (renamed("model.layers.1.mlp.experts.up_proj.weight", "x"), "experts.up_proj.weight' is missing"),
        (reshaped(f"{ROUTER}.weight", 32, 8), "config.json needs U32 [8, 32]"),
        (reshaped(f"{ROUTER}.scales", 2, 8), "is BF16 [2, 8], config.json needs BF16 or F16 or F32 [8, 2]"),
        (reshaped(f"{ROUTER}.scales", 16), "is BF16 [16], config.json needs BF16 or F16 or F32 [8, 2]"),
        (renamed(f"{ROUTER}.biases", "x"), f"tensor '{ROUTER}.biases' is missing"),
        (reshaped("model.norm.weight", 64, dtype="U32"), "is U32 [64], config.json needs BF16 or F16 or F32 [128]"),
        (renamed("lm_head.scales", "x"), "tensor 'lm_head.scales' is missing"),
    ],
)
def test_a_header_that_lies(eight_bits, tmp_path, damage, expected):
    source = write(tmp_path / "source", dense="q8")
    edit_header(source / "model.safetensors", damage)
    line = refusal(source, tmp_path)
    assert expected in line


def test_attention_of_4_bits(tmp_path):
    source = write(tmp_path / "source", dense="q4")
    assert refusal(source, tmp_path) == (
        f"{source / 'model.safetensors'}: tensor 'model.embed_tokens.weight' is affine with 4 bits in groups of 64, "
        "too coarse outside the experts; get a folder named MXFP4-Q8, or the published checkpoint"
    )


@pytest.mark.parametrize(
    ("mode", "bits", "group", "named"),
    [
        ("affine", 8, 64, "affine with 8 bits in groups of 64"),
        ("affine", 4, 32, "affine with 4 bits in groups of 32"),
        ("affine", 3, 32, "affine with 3 bits in groups of 32"),
        ("mxfp8", 8, 32, "MXFP8"),
        ("nvfp4", 4, 16, "NVFP4"),
    ],
)
def test_experts_in_another_format(tmp_path, mode, bits, group, named):
    tensors = []
    for name, dtype, values in fine_tunes.mlx_lm(SIZES | {"intermediate_size": 128}, experts="full"):
        if ".experts." not in name or name.endswith("bias"):
            tensors.append((name, dtype, values))
            continue
        quantized = mx.quantize(mx.array(values).view(mx.bfloat16), group_size=group, bits=bits, mode=mode)
        for kind, array in zip(("weight", "scales", "biases"), quantized, strict=False):
            if array.dtype == mx.bfloat16:
                array = array.view(mx.uint16)
            dtype = {mx.uint32: "U32", mx.uint8: "U8", mx.uint16: "BF16"}[array.dtype]
            tensors.append((name.replace("weight", kind), dtype, np.array(array)))
    source = fine_tunes.write(tmp_path / "source", SIZES | {"intermediate_size": 128}, tensors)
    assert refusal(source, tmp_path) == (
        f"{source / 'model.safetensors'}: experts are {named}, not MXFP4 as published; "
        "get a folder named MXFP4-Q8, or the published checkpoint"
    )


@pytest.mark.parametrize(("dense", "experts"), [("bf16", "mxfp4"), ("q8", "mxfp4"), ("q4", "mxfp4"), ("bf16", "full")])
def test_the_folders_above_are_those_that_mlx_lm_writes(checkpoint, tmp_path, dense, experts):
    """mlx-lm's own loading, quantizing and saving give the same tensors."""
    utils = pytest.importorskip("mlx_lm.utils")
    model, config = utils.load_model(checkpoint)
    if dense != "bf16":
        model, config = utils.quantize_model(model, config, group_size=64, bits=int(dense[1:]))
    if experts == "full":
        model = utils.dequantize_model(model)
        config = {key: value for key, value in config.items() if not key.startswith("quantization")}
    utils.save_model(tmp_path / "saved", model)
    utils.save_config(config, tmp_path / "saved" / "config.json")
    saved = mx.load(str(tmp_path / "saved" / "model.safetensors"))
    expected = {name: (dtype, bits) for name, dtype, bits in fine_tunes.mlx_lm(SIZES, dense=dense, experts=experts)}
    assert saved.keys() == expected.keys()
    for name, (dtype, bits) in expected.items():
        array = saved[name]
        assert {mx.bfloat16: "BF16", mx.uint32: "U32", mx.uint8: "U8"}[array.dtype] == dtype, name
        got = np.array(array.view(mx.uint16) if dtype == "BF16" else array)
        assert np.array_equal(got, bits), name
    if dense == "q4":
        assert "too coarse outside the experts" in refusal(tmp_path / "saved", tmp_path)
        return
    source = fine_tunes.write(tmp_path / "source", SIZES, fine_tunes.mlx_lm(SIZES, dense=dense, experts=experts))
    ours, theirs = (convert(folder, tmp_path / f"{folder.name}-model") for folder in (source, tmp_path / "saved"))
    assert shard_bytes(ours.destination) == shard_bytes(theirs.destination)
    assert theirs.unknown_fields == ()
