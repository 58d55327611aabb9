"""A model folder is compared with a checkpoint value by value, whatever form either has, and one wrong bit is named."""

import re
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from convert import convert
from convert.sources import open_checkpoint
from convert.verification import compare
from gptoss_mlx.errors import CheckpointError, ModelFolderError
from gptoss_mlx.model_folder import ModelFolder
from tests.support import fine_tunes
from tests.support.checkpoints import SMALL, from_bf16, hf_tensors, write_checkpoint, write_safetensors
from tests.support.model_folders import array_of, dtype_of

SIZES = SMALL | {"num_hidden_layers": 1}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("source") / "hf", SIZES)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("source") / "original", SIZES, "original", shards=3)


@pytest.fixture(scope="module", params=["q8", "bf16"])
def folder(request, checkpoint, tmp_path_factory):
    return convert(checkpoint, tmp_path_factory.mktemp(request.param) / "model", dense=request.param).destination


def with_float32(checkpoint, folder, suffix, change=lambda values: values):
    """A copy of the checkpoint in which the tensors of that suffix are float32, with changed values."""
    shutil.copytree(checkpoint, folder)
    tensors = []
    for name, dtype, bits in hf_tensors(SIZES):
        wide = name.endswith(suffix)
        tensors.append((name, "F32" if wide else dtype, change(from_bf16(bits)) if wide else bits))
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def test_every_tensor_is_equal_to_that_of_either_layout(folder, checkpoint, original):
    model = ModelFolder.open(folder)
    dense = model.manifest["quantization"]["dense"]
    for source in (checkpoint, original):
        seen = []
        found = compare(model, source, lambda done, total, seen=seen: seen.append((done, total)))
        assert (found.exact, found.q8) == {"q8": (14, 4), "bf16": (18, 0)}[dense]
        assert 0.9 < found.largest <= 1 if dense == "q8" else found.largest == 0
        assert found.losses == ()
        assert seen[-1][0] == seen[-1][1] == sum(bits.nbytes for _, _, bits in hf_tensors(SIZES))


def test_one_bit_in_any_tensor_is_named_with_its_tensor(folder, checkpoint, tmp_path):
    names = ModelFolder.open(folder).names()
    for name in names:
        copy = shutil.copytree(folder, tmp_path / name)
        model = ModelFolder.open(copy)
        place = model.tensor(name)
        with model.file_of(name).open("r+b") as file:
            file.seek(place.offset + place.nbytes // 2 + 1)  # of a bfloat16 the byte with its exponent
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes([byte ^ 32]))
        q8 = f"{name.rpartition('.')[0]}.scales" in names and ".experts." not in name and not name.endswith(".bias")
        shown = f"{name.rpartition('.')[0]}.weight" if q8 else name
        how = r"is further from \S+ than q8 allows in [1-9]\d? of" if q8 else r"differs from \S+ in 1 of"
        with pytest.raises(ModelFolderError, match=rf"{model.file_of(name)}: tensor '{re.escape(shown)}' {how} \d"):
            compare(model, checkpoint)
        shutil.rmtree(copy)
    assert len(names) in (18, 26)


def test_values_are_counted_over_all_of_a_tensor_whatever_the_pieces(checkpoint, tmp_path):
    """q and v of an attention come from two tensors. Two codes lie in one byte."""
    model = ModelFolder.open(convert(checkpoint, tmp_path / "model", dense="bf16").destination)
    for name, offsets, count in (
        ("layers.0.qkv.weight", (0, 1, 7, -1), "3 of 163,840"),
        ("layers.0.experts.down.weight", (5, -1), "4 of 98,304"),
    ):
        place = model.tensor(name)
        with model.file_of(name).open("r+b") as file:
            for offset in offsets:
                file.seek(place.offset + offset % place.nbytes)
                byte = file.read(1)[0]
                file.seek(-1, 1)
                file.write(bytes([byte ^ 0x11]))
        with pytest.raises(ModelFolderError, match=rf"'{name}' differs from \S+ in {count} values; convert"):
            compare(model, checkpoint)
        shutil.rmtree(model.path)
        model = ModelFolder.open(convert(checkpoint, tmp_path / "model", dense="bf16").destination)


def test_norms_may_be_float32_on_either_side(checkpoint, tmp_path):
    wide = with_float32(checkpoint, tmp_path / "wide", "norm.weight")
    for source, dtype in ((checkpoint, "BF16"), (wide, "F32")):
        model = ModelFolder.open(convert(source, tmp_path / dtype).destination)
        assert dtype_of(model, "norm.weight") == dtype
        for other in (checkpoint, wide):
            assert compare(model, other).exact == 14


def test_float32_values_are_rounded_before_they_are_compared_and_that_is_said(checkpoint, tmp_path):
    model = ModelFolder.open(convert(checkpoint, tmp_path / "model").destination)
    near = with_float32(checkpoint, tmp_path / "near", "norm.weight", lambda values: values * np.float32(1 + 2**-12))
    assert compare(model, near).losses == (
        "float32 values of 3 tensors, such as layers.0.attn_norm.weight, are rounded to bfloat16",
    )
    far = with_float32(checkpoint, tmp_path / "far", "norm.weight", lambda values: values * np.float32(1 + 2**-7))
    with pytest.raises(ModelFolderError, match=r"'layers\.0\.attn_norm\.weight' differs from \S+ in \d+ of 128 values"):
        compare(model, far)


def test_another_config_is_named_by_its_field(folder, tmp_path):
    other = write_checkpoint(tmp_path / "other", SIZES | {"swiglu_limit": 8.0})
    line = rf"{folder}/config.json: swiglu_limit is 7.0, in {other} it is 8.0; convert the checkpoint again, or name "
    with pytest.raises(ModelFolderError, match=line):
        compare(ModelFolder.open(folder), other)


def test_other_weights_of_the_same_shape_differ(folder, tmp_path):
    other = write_checkpoint(tmp_path / "other", SIZES, seed=1)
    with pytest.raises(ModelFolderError, match=r"model-embedding\.safetensors: tensor 'embedding\.weight' (dif|is f)"):
        compare(ModelFolder.open(folder), other)


def test_a_checkpoint_that_changes_meanwhile_is_an_error_of_the_checkpoint(folder, tmp_path):
    source = write_checkpoint(tmp_path / "hf", SIZES)

    def progress(done, total):
        if done == total:
            (source / "config.json").write_text("{}")

    with pytest.raises(CheckpointError, match=r"config\.json: changed while"):
        compare(ModelFolder.open(folder), source, progress)


def test_a_damaged_scale_of_zero_or_no_number_is_a_difference(checkpoint, tmp_path):
    for damage in (0x0000, 0x7FC0, 0x7F80):
        path = tmp_path / str(damage)
        model = ModelFolder.open(convert(checkpoint, path).destination)
        with model.file_of("head.scales").open("r+b") as file:
            file.seek(model.tensor("head.scales").offset)
            file.write(damage.to_bytes(2, "little"))
        assert array_of(ModelFolder.open(path), "head.scales")[0, 0] == damage
        with pytest.raises(ModelFolderError, match=r"'head\.weight' is further .* than q8 allows in \d+ of 65,536"):
            compare(model, checkpoint)


def with_pieces(monkeypatch, source, change):
    """Let the checkpoint have other pieces, as other sources have them."""
    checkpoint = open_checkpoint(source)
    changed = replace(checkpoint, pieces=tuple(change(list(checkpoint.pieces))))
    monkeypatch.setattr("convert.verification.open_checkpoint", lambda path: changed)


def test_a_piece_may_hold_the_rows_of_two_tensors(folder, checkpoint, tmp_path, monkeypatch):
    """As a GGUF tensor does, which has a block's codes beside its scale."""

    def together(pieces):
        place = next(n for n, piece in enumerate(pieces) if piece.targets == ("layers.0.experts.down.weight",))
        codes, scales = pieces[place : place + 2]

        def read(reader):
            for parts in zip(codes.read(reader), scales.read(reader), strict=True):
                half = len(parts[0][0]) // 2
                yield tuple(rows[:half] for (rows,) in parts)
                yield tuple(rows[half:] for (rows,) in parts)

        both = replace(codes, targets=codes.targets + scales.targets, sources=codes.sources + scales.sources, read=read)
        return [*pieces[:place], both, *pieces[place + 2 :]]

    with_pieces(monkeypatch, checkpoint, together)
    assert compare(ModelFolder.open(folder), checkpoint).exact in (14, 18)
    copy = ModelFolder.open(shutil.copytree(folder, tmp_path / "copy"))
    name = "layers.0.experts.down.scales"
    with copy.file_of(name).open("r+b") as file:
        file.seek(copy.tensor(name).offset + copy.tensor(name).nbytes - 1)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(ModelFolderError, match=rf"'{name}' differs from \S+ in 1 of 3,072 values"):
        compare(copy, checkpoint)


def test_a_source_that_leaves_out_a_tensor_is_not_taken_for_equal(folder, checkpoint, monkeypatch):
    with_pieces(monkeypatch, checkpoint, lambda pieces: pieces[:-1])
    with pytest.raises(ValueError, match=r"head\.weight: 0 of 65536 values compared"):
        compare(ModelFolder.open(folder), checkpoint)


OTHERS = {
    "experts in full": partial(fine_tunes.full, SIZES),
    "mlx-lm": partial(fine_tunes.mlx_lm, SIZES),
    "mlx-lm, 8 bits": partial(fine_tunes.mlx_lm, SIZES, dense="q8"),
    "mlx-lm, 8 bits in small groups": partial(fine_tunes.mlx_lm, SIZES, dense="q8", group=32),
}


@pytest.mark.parametrize("dense", ["q8", "bf16"])
@pytest.mark.parametrize("kind", OTHERS)
def test_every_source_is_what_it_was_converted_to(tmp_path, kind, dense):
    source = fine_tunes.write(tmp_path / "source", SIZES, OTHERS[kind]())
    report = convert(source, tmp_path / "model", dense=dense)
    found = compare(ModelFolder.open(report.destination), source)
    assert found.exact + found.q8 == 18
    assert found.q8 == (4 if dense == "q8" and kind != "mlx-lm, 8 bits" else 0), "kept codes are equal bit for bit"
    quantized = (f"experts are {report.experts}",) if kind == "experts in full" else ()
    assert found.losses == report.losses + quantized


@pytest.mark.parametrize(("tensor", "values"), [("head.weight", 1), ("head.scales", 64), ("head.biases", 64)])
def test_kept_codes_of_8_bits_are_compared_bit_for_bit(tmp_path, tensor, values):
    source = fine_tunes.write(tmp_path / "source", SIZES, fine_tunes.mlx_lm(SIZES, dense="q8"))
    model = ModelFolder.open(convert(source, tmp_path / "model").destination)
    with model.file_of(tensor).open("r+b") as file:
        file.seek(model.tensor(tensor).offset + model.tensor(tensor).nbytes - 2)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(ModelFolderError, match=rf"'head\.weight' differs from \S+ in {values} of 65,536 values"):
        compare(model, source)


def test_mlx_lms_form_of_a_checkpoint_is_the_same_to_a_model(checkpoint, tmp_path):
    model = ModelFolder.open(convert(checkpoint, tmp_path / "model").destination)
    assert compare(model, fine_tunes.write(tmp_path / "mlx-lm", SIZES, fine_tunes.mlx_lm(SIZES))).exact == 14
