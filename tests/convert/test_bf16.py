"""A fine-tune whose experts are stored in full becomes the model folder of its values, and what was lost is said."""

from pathlib import Path

import numpy as np
import pytest

import gptoss_mlx
from convert import convert
from convert.verification import compare
from gptoss_mlx.errors import ModelFolderError
from gptoss_mlx.model_folder import ModelFolder
from tests.convert.test_bad_checkpoints import edit_header, refusal
from tests.support import fine_tunes
from tests.support.checkpoints import SMALL, from_bf16, hf_tensors, to_bf16, write_checkpoint
from tests.support.cli import run_cli
from tests.support.measure import relative_l2
from tests.support.model_folders import array_of, dtype_of, experts_of

SIZES = SMALL | {"num_hidden_layers": 2}
KEPT = "MXFP4, quantized from bfloat16, every value kept"
EXPERTS = "model.layers.1.mlp.experts"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Return the model folder of the published form."""
    folder = tmp_path_factory.mktemp("published")
    return convert(write_checkpoint(folder / "hf", SIZES), folder / "model", dense="bf16").destination


def logits(folder: Path) -> np.ndarray:
    return np.array(gptoss_mlx.load(folder, dtype="float32").logits([[1, 2, 3, 50, 7, 400]]))


def two_scales(blocks: np.ndarray) -> np.ndarray:
    """Return which blocks [..., 16] hold values that are written with another scale than theirs."""
    codes = np.stack([blocks & 7, blocks >> 4 & 7], -1).reshape(*blocks.shape[:-1], 32)
    return (codes.max(-1) < 5) | ((codes.max(-1) == 7) & ~np.isin(codes, (1, 3)).any(-1))


def assert_same_weights(got: Path, want: Path) -> None:
    """Every tensor has the same bytes, except MXFP4 blocks that two scales can write, which have the same values."""
    one, other = ModelFolder.open(got), ModelFolder.open(want)
    assert one.names() == other.names()
    for name in one.names():
        if not name.endswith(("gate_up.weight", "gate_up.scales", "down.weight", "down.scales")):
            assert np.array_equal(array_of(one, name), array_of(other, name)), name
    ours = experts_of(one)
    differing = total = 0
    for name, (blocks, scales) in experts_of(other).items():
        unequal = (ours[name][0] != blocks).any(-1) | (ours[name][1] != scales)
        assert np.array_equal(unequal, two_scales(blocks)), name
        assert np.array_equal(fine_tunes.decode(*ours[name]), fine_tunes.decode(blocks, scales)), name
        differing += np.count_nonzero(unequal)
        total += unequal.size
    assert differing < total / 1000


FORMS = {
    "of transformers": fine_tunes.full,
    "of a split model": fine_tunes.split,
    "float32": lambda sizes: fine_tunes.full(sizes, dtype="F32"),
    "float16": lambda sizes: fine_tunes.full(sizes, dtype="F16"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_fine_tune_that_left_the_experts_alone_has_the_published_ones(form, published, tmp_path):
    source = fine_tunes.write(tmp_path / "source", SIZES, FORMS[form](SIZES), shards=3 if form == "float16" else 1)
    report = convert(source, tmp_path / "model", dense="bf16")
    assert report.layout == "Hugging Face, experts in full"
    assert report.experts == KEPT.replace("bfloat16", form if form.startswith("float") else "bfloat16")
    assert report.losses == ()
    assert_same_weights(report.destination, published)
    assert relative_l2(logits(report.destination), logits(published)) < 1e-5


def test_the_error_is_that_of_all_experts(tmp_path):
    tensors = list(fine_tunes.tuned(fine_tunes.full(SIZES), size=0.2))
    report = convert(fine_tunes.write(tmp_path / "source", SIZES, tensors), tmp_path / "model")
    experts = experts_of(ModelFolder.open(report.destination))
    lost = power = 0.0
    for name, _, bits in tensors:
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            _, _, n, _, _, linear = name.split(".")
            got = fine_tunes.decode(*experts[f"layers.{n}.experts.{linear.removesuffix('_proj')}.weight"])
            want = from_bf16(bits).swapaxes(1, 2)
            lost += float(((got - want).astype(np.float64) ** 2).sum())
            power += float((want.astype(np.float64) ** 2).sum())
    assert 0.05 < (lost / power) ** 0.5 < 0.2
    assert report.experts == f"MXFP4, quantized from bfloat16, error {100 * (lost / power) ** 0.5:.2g}%"


def test_a_model_is_verified_against_its_fine_tune(tmp_path):
    source = fine_tunes.write(tmp_path / "source", SIZES, fine_tunes.tuned(fine_tunes.full(SIZES)))
    model = ModelFolder.open(convert(source, tmp_path / "model", dense="bf16").destination)
    found = compare(model, source)
    assert (found.exact, found.q8) == (len(model.names()), 0)
    assert found.losses == ("experts are MXFP4, quantized from bfloat16, error 1%",)
    base = fine_tunes.write(tmp_path / "base", SIZES, fine_tunes.split(SIZES))
    with pytest.raises(ModelFolderError, match=r"tensor 'layers\.0\.experts\.gate_up\.weight' differs from"):
        compare(model, base)


def test_what_was_quantized_and_lost_is_in_the_summary(tmp_path):
    wide = [
        (n, "F32", from_bf16(b) + np.float32(1e-7)) if "router.weight" in n else (n, d, b)
        for n, d, b in fine_tunes.tuned(fine_tunes.full(SIZES))
    ]
    source = fine_tunes.write(tmp_path / "source", SIZES, wide)
    code, out, _ = run_cli("convert", source, "--out", tmp_path / "model")
    assert code == 0
    rows = dict(line.split("  ", 1) for line in out.splitlines() if "  " in line)
    assert rows["Experts"].strip() == "MXFP4, quantized from bfloat16, error 1%"
    assert rows["Lost"].strip() == (
        "float32 values of 2 tensors, such as layers.0.router.weight, are rounded to bfloat16"
    )
    assert "bit for bit" not in out


def test_float32_router_norms_and_sinks(published, tmp_path):
    """A training in mixed precision leaves them so. Norms stay float32, the others are rounded without loss here."""
    wide = ("norm.weight", "router.weight", "router.bias", "sinks")
    tensors = [(n, "F32", from_bf16(b)) if n.endswith(wide) else (n, d, b) for n, d, b in fine_tunes.full(SIZES)]
    report = convert(fine_tunes.write(tmp_path / "source", SIZES, tensors), tmp_path / "model", dense="bf16")
    assert report.losses == ()
    ours, theirs = ModelFolder.open(report.destination), ModelFolder.open(published)
    assert dtype_of(ours, "norm.weight") == dtype_of(ours, "layers.1.mlp_norm.weight") == "F32"
    assert np.array_equal(array_of(ours, "norm.weight"), from_bf16(array_of(theirs, "norm.weight")))
    for name in ("layers.0.router.weight", "layers.1.router.bias", "layers.1.sinks"):
        assert np.array_equal(array_of(ours, name), array_of(theirs, name))
    assert np.array_equal(logits(report.destination), logits(published))


def test_a_model_in_float16_becomes_the_nearest_bfloat16(published, tmp_path):
    tensors = [
        (n, "F16", from_bf16(b).astype(np.float16)) if d == "BF16" and ".experts." not in n else (n, d, b)
        for n, d, b in hf_tensors(SIZES)
    ]
    source = fine_tunes.write(tmp_path / "source", SIZES, tensors)
    report = convert(source, tmp_path / "model", dense="bf16")
    assert (report.layout, report.experts) == ("Hugging Face", "MXFP4, bit for bit")
    assert dtype_of(ModelFolder.open(report.destination), "norm.weight") == "F32"
    assert relative_l2(logits(report.destination), logits(published)) < 1e-3


def test_a_tied_head_is_the_embedding(tmp_path):
    tensors = [tensor for tensor in fine_tunes.full(SIZES) if tensor[0] != "lm_head.weight"]
    source = fine_tunes.write(tmp_path / "source", SIZES, tensors, lambda raw: raw.update(tie_word_embeddings=True))
    report = convert(source, tmp_path / "model", dense="bf16")
    model = ModelFolder.open(report.destination)
    assert np.array_equal(array_of(model, "head.weight"), array_of(model, "embedding.weight"))
    assert report.unknown_fields == ()
    model.verify()


def test_a_config_without_head_dim_as_transformers_5_saves_it(published, tmp_path):
    def edit(raw):
        del raw["head_dim"]
        raw["rope_parameters"] = raw.pop("rope_scaling") | {"rope_theta": raw.pop("rope_theta")}
        raw |= {"dtype": "bfloat16", "use_cache": True, "transformers_version": "5.0.0"}

    source = fine_tunes.write(tmp_path / "source", SIZES, fine_tunes.full(SIZES), edit)
    report = convert(source, tmp_path / "model", dense="bf16")
    assert report.config == ModelFolder.open(published).config
    assert report.unknown_fields == ()


@pytest.fixture
def source(tmp_path):
    return fine_tunes.write(tmp_path / "source", SIZES, fine_tunes.full(SIZES))


def renamed(old, new):
    return lambda header: header.update({new: header.pop(old)})


DOWN = f"{EXPERTS}.down_proj"


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda h: h[DOWN].update(shape=[8, 128, 96]), "config.json needs BF16 or F16 or F32 [8, 96, 128]"),
        (lambda h: h[DOWN].update(shape=[8 * 96 * 128]), "is BF16 [98304], config.json needs"),
        (lambda h: h[DOWN].update(dtype="I16"), "is I16 [8, 96, 128], config.json needs"),
        (lambda h: h[DOWN].update(dtype="I8", shape=[8, 96, 256]), "the experts have 8 bits (I8), not MXFP4"),
        (lambda h: h[DOWN].update(dtype="F8_E4M3", shape=[8, 96, 256]), "the experts have 8 bits (F8_E4M3)"),
        (renamed(DOWN, "x"), f"tensor '{DOWN}' is missing; download it again"),
        (renamed(f"{DOWN}_bias", f"{DOWN}.bias"), f"tensor '{DOWN}_bias' is missing"),
        (renamed("lm_head.weight", "lm_head.weight.absmax"), "is quantized by bitsandbytes"),
        (renamed("lm_head.weight", "model.layers.0.self_attn.q_proj.qweight"), "is quantized by GPTQ or AWQ"),
        (renamed("lm_head.weight", "model.layers.0.self_attn.q_proj.lora_A.weight"), "has LoRA tensors"),
        (renamed("lm_head.weight", "base_model.model.lm_head.base_layer.weight"), "has LoRA tensors"),
    ],
)  # fmt: skip
def test_weights_that_cannot_be_used(source, tmp_path, damage, expected):
    edit_header(source / "model.safetensors", damage)
    assert expected in refusal(source, tmp_path)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_training_that_failed(tmp_path, value):
    tensors = list(fine_tunes.full(SIZES))
    broken = next(bits for name, _, bits in tensors if name == DOWN)
    broken[3, 7, 11] = to_bf16(np.array([value]))[0]
    source = fine_tunes.write(tmp_path / "source", SIZES, tensors)
    assert f"tensor '{DOWN}' has a value that is not finite" in refusal(source, tmp_path)


def test_a_value_too_large_for_a_model_folder(tmp_path):
    tensors = list(fine_tunes.full(SIZES))
    broken = next(bits for name, _, bits in tensors if name == DOWN)
    broken[3, 7, 11] = to_bf16(np.array([1e38]))[0]
    source = fine_tunes.write(tmp_path / "source", SIZES, tensors)
    assert f"tensor '{DOWN}' has an MXFP4 scale of 251, at most 240 is usable" in refusal(source, tmp_path)


@pytest.mark.parametrize("missing", [f"{EXPERTS}.gate_up_projs.5.weight", f"{EXPERTS}.down_projs.0.bias"])
def test_a_split_model_with_an_expert_missing(tmp_path, missing):
    tensors = [tensor for tensor in fine_tunes.split(SIZES) if tensor[0] != missing]
    source = fine_tunes.write(tmp_path / "source", SIZES, tensors)
    assert refusal(source, tmp_path) == f"{source}: tensor '{missing}' is missing; download it again"


def test_an_adapter_alone(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "adapter_config.json").write_text("{}")
    (tmp_path / "source" / "adapter_model.safetensors").write_bytes(b"")
    line = refusal(tmp_path / "source", tmp_path)
    assert line.startswith(f"{tmp_path / 'source'}: is a LoRA adapter, which changes a model and is none; merge it")


def test_an_adapter_beside_weights(source, tmp_path):
    (source / "adapter_config.json").write_text("{}")
    assert "if they are merged, remove that file" in refusal(source, tmp_path)


def test_files_that_are_no_safetensors(tmp_path):
    folder = tmp_path / "source"
    (folder / "metal").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "metal" / "model.bin").write_bytes(b"GPT-OSS v1.0\0\0\0\0")
    metal = f"{folder / 'metal' / 'model.bin'}: is in OpenAI's Metal format"
    assert refusal(folder, tmp_path).startswith(metal)
    assert refusal(folder / "metal" / "model.bin", tmp_path).startswith(metal)
    (folder / "pytorch_model-00001-of-00002.bin").write_bytes(b"PK\3\4")
    assert refusal(folder, tmp_path) == (
        f"{folder / 'pytorch_model-00001-of-00002.bin'}: is a pickle, which can run a program when it is read; "
        "save the model again as safetensors files"
    )
