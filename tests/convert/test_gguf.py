"""A GGUF file gives the same model as the published checkpoint, whichever program wrote it, or one line says why not.

The files are written with ``gguf``, the format's own package, which we do not use.
"""

import json
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quant_shape_to_byte_shape, quantize

import gptoss_mlx
from convert import convert
from convert.pieces import Reader
from convert.sources import ggml_types, gguf_header, open_checkpoint
from convert.verification import compare
from gptoss_mlx.errors import CheckpointError
from gptoss_mlx.harmony import Tokenizer
from gptoss_mlx.model_folder import ModelFolder
from gptoss_mlx.tokenizer_files.formats import O200K_PATTERN
from tests.support.checkpoints import SMALL, from_bf16, write_checkpoint
from tests.support.cli import run_cli
from tests.support.gguf_checkpoint import gguf_plan, write_gguf
from tests.support.measure import relative_l2
from tests.support.model_folders import array_of, dtype_of
from tests.support.random_checkpoint import tokenizer_of
from tests.support.tokenizers import gpt2_text, small_tokenizer_json, write_json

SIZES = SMALL | {"num_hidden_layers": 2}
ONE_LAYER = SMALL | {"num_hidden_layers": 1}
STYLES = {
    "llama.cpp": {},
    "llama.cpp in parts": {"tensors_in_part": 13},
    "ollama": {"style": "ollama"},
    "ollama-first": {"style": "ollama-first"},
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The model folder made from the Hugging Face checkpoint of the same weights."""
    folder = tmp_path_factory.mktemp("hf")
    return convert(write_checkpoint(folder / "source", SIZES), folder / "model", dense="bf16").destination


@pytest.fixture(scope="module", params=STYLES)
def converted(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    (folder / "source").mkdir()
    write_gguf(folder / "source" / "m.gguf", SIZES, tokenizer_of(SIZES), dense=Type.BF16, **STYLES[request.param])
    return convert(folder / "source", folder / "model", dense="bf16")


def write(folder: Path, sizes: dict = ONE_LAYER, name: str = "m.gguf", **options) -> Path:
    folder.mkdir(exist_ok=True)
    return write_gguf(folder / name, sizes, tokenizer_of(sizes), **options)


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 700
    return line


def test_every_tensor_is_that_of_the_published_checkpoint(converted, published):
    ours, theirs = ModelFolder.open(converted.destination), ModelFolder.open(published)
    assert list(ours.names()) == list(theirs.names())
    for name in ours.names():
        got = array_of(ours, name)
        if name.endswith("norm.weight"):
            assert dtype_of(ours, name) == "F32"
            assert np.array_equal(got, from_bf16(array_of(theirs, name))), name
        else:
            assert np.array_equal(got, array_of(theirs, name)), name


def test_the_logits_are_those_of_the_published_checkpoint(converted, published):
    tokens = np.random.default_rng(0).integers(0, SIZES["vocab_size"], (1, 150)).tolist()
    got, want = (
        np.array(gptoss_mlx.load(folder, dtype="float32").logits(tokens))
        for folder in (converted.destination, published)
    )
    assert relative_l2(got, want) <= 1e-5


def test_models_of_either_source_are_verified_against_the_other(converted, published):
    ours, theirs = ModelFolder.open(converted.destination), ModelFolder.open(published)
    source = converted.destination.parent / "source"
    for found in (compare(ours, source), compare(theirs, source), compare(ours, published.parent / "source")):
        assert (found.exact, found.q8, found.losses) == (len(theirs.names()), 0, ())


def test_experts_in_full_are_quantized_and_keep_values_that_came_from_mxfp4(tmp_path, published):
    report = convert(write(tmp_path, SIZES, exact=True), tmp_path / "model", dense="bf16")
    assert report.experts == "MXFP4, quantized from float32, every value kept"
    tokens = np.random.default_rng(0).integers(0, SIZES["vocab_size"], (1, 50)).tolist()
    got, want = (
        np.array(gptoss_mlx.load(folder, dtype="float32").logits(tokens)) for folder in (report.destination, published)
    )
    assert relative_l2(got, want) <= 1e-5


def test_config_and_summary_are_those_of_the_published_checkpoint(converted, published):
    assert converted.config == ModelFolder.open(published).config
    assert (converted.layout, converted.losses, converted.unknown_fields) == ("GGUF", (), ())


def test_generation_stops_at_the_files_ids_and_at_the_markers(converted):
    special = Tokenizer.load(ModelFolder.open(converted.destination).tokenizer_path).special
    generation = ModelFolder.open(converted.destination).generation
    assert generation["bos_token_id"] == special["<|startoftext|>"]
    assert special["<|return|>"] in generation["eos_token_id"]
    stops = gptoss_mlx.load(converted.destination).stop_ids
    assert {special[marker] for marker in ("<|return|>", "<|endoftext|>", "<|call|>")} <= stops


def test_the_vocabulary_is_the_files(converted, tmp_path):
    ours = Tokenizer.load(ModelFolder.open(converted.destination).tokenizer_path)
    same = write_json(tmp_path / "tokenizer.json", small_tokenizer_json(O200K_PATTERN))
    assert converted.tokenizer == "checkpoint"
    assert ours.digest == Tokenizer.from_file(same).digest


def test_the_published_vocabulary_is_recognized(tmp_path):
    large = ONE_LAYER | {"hidden_size": 32, "intermediate_size": 32, "vocab_size": 201088}
    ours = Tokenizer.bundled()
    vocab = {gpt2_text(ours.token_bytes(id)): id for id in range(min(ours.special.values()))}
    markers = [{"content": text, "id": id} for text, id in ours.special.items()]
    vocabulary = {"model": {"vocab": vocab, "merges": []}, "added_tokens": markers}
    report = convert(write_gguf(tmp_path / "m.gguf", large, vocabulary), tmp_path / "model")
    assert report.tokenizer == "bundled"
    tokenizer = ModelFolder.open(report.destination).tokenizer_path
    assert Tokenizer.load(tokenizer).digest == Tokenizer.bundled().digest


@pytest.mark.parametrize("kind", ["Q8_0", "F16", "F32", "BF16"])
def test_dense_values_are_those_that_the_formats_own_package_decodes(kind):
    values = np.random.default_rng(1).standard_normal((6, 64), np.float32)
    data = quantize(values, Type[kind])
    ours = ggml_types.decode_dense(kind, data.view(np.uint8).reshape(-1)).reshape(6, 64)
    ours = from_bf16(ours) if kind == "BF16" else ours
    assert np.array_equal(ours, dequantize(data, Type[kind]))


@pytest.mark.parametrize("at_once", [2, 8, 1 << 15])
def test_expert_values_are_those_that_the_formats_own_package_decodes(monkeypatch, at_once):
    monkeypatch.setattr(ggml_types, "_AT_ONCE", at_once)
    rng = np.random.default_rng(2)
    data = rng.integers(0, 256, (6, 3 * 17), np.uint8)
    data[:, ::17] = rng.integers(100, 140, (6, 3))
    codes, scales = ggml_types.decode_mxfp4("MXFP4", data.reshape(-1), 96)
    assert (codes.shape, scales.shape) == ((6, 3, 16), (6, 3))
    magnitudes = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
    table = np.concatenate([magnitudes, -magnitudes])
    nibbles = np.stack([codes & 15, codes >> 4], -1).reshape(6, 3, 32)
    values = table[nibbles] * np.exp2(scales[..., None] - np.float32(127))
    assert np.array_equal(values.reshape(6, 96), dequantize(data, Type.MXFP4))


def test_every_type_has_the_size_that_the_formats_own_package_gives():
    theirs = {kind.value: (kind.name, *size) for kind, size in gguf.GGML_QUANT_SIZES.items()}
    ours = {number: (kind.name, kind.block, kind.nbytes) for number, kind in ggml_types.TYPES.items()}
    assert ours.pop(4) == (ggml_types.MXFP4_PUBLISHED, 32, 17)
    assert ours == theirs


def test_eight_bit_rows_are_read_as_they_are_and_the_summary_says_so(tmp_path):
    report = convert(write(tmp_path), tmp_path / "model")
    assert report.losses == (
        "embedding, attention and head came in Q8_0 (8 bits, 32 to a scale; they are not the published values)",
    )
    plan = {tensor.name: tensor for tensor in gguf_plan(ONE_LAYER)}
    for piece in open_checkpoint(tmp_path / "m.gguf").pieces:
        if piece.targets == ("layers.0.o.weight",):
            (rows,) = (np.concatenate(parts) for parts in zip(*piece.read(Reader()), strict=True))
            theirs = dequantize(plan["blk.0.attn_output.weight"].data(), Type.Q8_0)
            assert np.array_equal(rows, theirs)
            return
    raise AssertionError("no piece for the output projection")


def test_half_precision_rows_are_said_to_have_lost_bits(tmp_path):
    report = convert(write(tmp_path, dense=Type.F16), tmp_path / "model", dense="bf16")
    assert any(line.startswith("embedding, attention and head came in F16") for line in report.losses)


def test_a_linked_file_of_the_hubs_cache_keeps_its_name(tmp_path):
    write(tmp_path, name="0a1b")
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "gpt-oss-tiny.gguf").symlink_to(tmp_path / "0a1b")
    convert(snapshot / "gpt-oss-tiny.gguf", tmp_path / "model")
    assert ModelFolder.open(tmp_path / "model").manifest["source"]["folder"] == "gpt-oss-tiny.gguf"


def test_a_file_without_the_formats_suffix_is_known_by_its_first_bytes(tmp_path):
    assert open_checkpoint(write(tmp_path, name="sha256-00")).layout == "GGUF"
    (tmp_path / "other").write_text("something else")
    assert "is no GGUF file" in refusal(tmp_path / "other")


def test_a_model_in_parts_is_named_by_any_part_or_the_folder(tmp_path):
    write(tmp_path / "parts", tensors_in_part=9)
    files = sorted((tmp_path / "parts").iterdir())
    assert len(files) == 3
    named = [[(source.file, source.name) for source in open_checkpoint(files[0].parent).pieces[0].sources]]
    named += [[(source.file, source.name) for source in open_checkpoint(file).pieces[0].sources] for file in files]
    assert all(one == named[0] for one in named)


def test_parts_that_do_not_belong_together_are_refused(tmp_path):
    write(tmp_path / "parts", tensors_in_part=9)
    write(tmp_path / "others", tensors_in_part=9, seed=1)
    first, second, third = sorted((tmp_path / "parts").iterdir())
    third.rename(tmp_path / "kept")
    assert refusal(first) == f"{third}: missing; download it again"
    shutil.copy(second, third)
    assert "says that it is part 1 of 3, counted from 0" in refusal(tmp_path / "parts")
    shutil.copy(first, third)
    assert "says that it is part 0 of 3, counted from 0" in refusal(second)
    shutil.copy(first, tmp_path / "alone.gguf")
    assert "says that it is part 0 of 3, counted from 0" in refusal(tmp_path / "alone.gguf")


def test_a_folder_of_several_models_needs_a_name(tmp_path):
    for name in ("a.gguf", "b.gguf"):
        write(tmp_path / "several", name=name)
    line = refusal(tmp_path / "several")
    assert "holds 2 GGUF models; name one of them (a.gguf, b.gguf)" in line
    open_checkpoint(tmp_path / "several" / "b.gguf")


def replaced(writer_type: Type, name: str):
    """Return a patch of ``gguf_plan`` that gives one tensor another type, filled with zeros."""

    def plan(*arguments):
        for tensor in gguf_plan(*arguments):
            if tensor.name != name:
                yield tensor
                continue
            zeros = np.zeros(quant_shape_to_byte_shape(tensor.shape, writer_type), np.uint8)
            yield replace(tensor, type=writer_type, data=zeros.copy)

    return plan


@pytest.mark.parametrize(
    ("name", "kind", "wanted"),
    [
        ("blk.0.attn_q.weight", Type.Q4_0, "F32 or F16 or BF16 or Q8_0"),
        ("output.weight", Type.Q5_1, "F32 or F16 or BF16 or Q8_0"),
        ("blk.0.ffn_up_exps.weight", Type.Q4_0, "MXFP4, as published"),
        ("blk.0.ffn_down_exps.weight", Type.Q8_0, "MXFP4, as published"),
        ("blk.0.ffn_up_exps.weight", Type.BF16, "MXFP4, as published"),
    ],
)
def test_what_was_quantized_otherwise_is_refused_by_name(tmp_path, monkeypatch, name, kind, wanted):
    monkeypatch.setattr("tests.support.gguf_checkpoint.gguf_plan", replaced(kind, name))
    line = refusal(write(tmp_path))
    assert f"tensor '{name}' is in {kind.name}, it can be converted only from {wanted}; get " in line


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("general.architecture", "llama", "general.architecture is 'llama'; only gpt-oss"),
        ("general.type", "adapter", "general.type is 'adapter', so it holds no whole model; merge an adapter"),
        ("gpt-oss.block_count", None, "no metadata entry 'gpt-oss.block_count'"),
        ("gpt-oss.rope.scaling.factor", None, "no metadata entry 'gpt-oss.rope.scaling.factor'"),
        ("gpt-oss.attention.sliding_window", None, "no metadata entry 'gpt-oss.attention.sliding_window'"),
        ("gpt-oss.attention.head_count", "many", "a value has the wrong type (num_attention_heads is 'many'"),
        ("gpt-oss.rope.scaling.type", "linear", "gpt-oss.rope.scaling.type is 'linear', this program computes only"),
        ("gpt-oss.rope.scaling.attn_factor", 0.5, "gpt-oss.rope.scaling.attn_factor is 0.5, this program computes"),
        ("gpt-oss.rope.dimension_count", 32, "gpt-oss.rope.dimension_count is 32, this program computes only 64"),
        ("gpt-oss.attention.scale", 0.5, "gpt-oss.attention.scale is 0.5, which this program does not know"),
        ("gpt-oss.expert_weights_scale", 2.0, "gpt-oss.expert_weights_scale is 2.0, which this program does not know"),
        ("gpt-oss.embedding_length", 96, "has shape [512, 128], the metadata needs [512, 96]"),
        ("gpt-oss.expert_count", 4, "the metadata needs [4,"),
        ("general.alignment", 48, "general.alignment is 48, no power of two"),
    ],
)
def test_metadata_that_is_missing_or_means_another_computation_is_refused(tmp_path, key, value, said):
    assert said in refusal(write(tmp_path, edit=changes(key, value)))


def changes(key, value):
    def edit(writer: gguf.GGUFWriter) -> None:
        entries = writer.kv_data[0]
        entries.pop(key, None)
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif value is not None:
            writer.add_uint32(key, value)

    return edit


def test_entries_without_effect_are_listed(tmp_path):
    checkpoint = open_checkpoint(write(tmp_path, edit=changes("gpt-oss.mood", "good")))
    assert checkpoint.unknown_fields == ("gpt-oss.mood",)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("tokenizer.ggml.pre", "llama-bpe", "tokenizer.ggml.pre is 'llama-bpe', not 'gpt-4o'"),
        ("tokenizer.ggml.model", "llama", "tokenizer.ggml.model is 'llama', not 'gpt2'"),
        ("tokenizer.ggml.token_type", None, "tokenizer.ggml.token_type is missing or no list"),
        ("tokenizer.ggml.tokens", "x", "tokenizer.ggml.tokens is missing or no list"),
    ],
)
def test_a_vocabulary_that_cannot_be_used_is_refused(tmp_path, key, value, said):
    with pytest.raises(CheckpointError, match="its vocabulary is no gpt-oss tokenizer") as caught:
        convert(write(tmp_path, edit=changes(key, value)), tmp_path / "model")
    assert said in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_without_a_vocabulary_the_model_takes_ids_only(tmp_path):
    report = convert(write(tmp_path, edit=changes("tokenizer.ggml.tokens", None)), tmp_path / "model")
    assert report.tokenizer is None


def header(tensors=(), entries=b"", count=0, version=3, magic=b"GGUF") -> bytes:
    """Return a file with these tensor records, (name, sizes, type, offset), and 32 bytes of data for each."""
    made = magic + struct.pack("<IQQ", version, len(tensors), count) + entries
    for name, sizes, kind, offset in tensors:
        made += struct.pack("<Q", len(name)) + name.encode()
        made += struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, kind, offset)
    return made + b"\0" * (-len(made) % 32) + b"\0" * 32 * max(1, len(tensors))


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


F32 = 0
HOSTILE = {
    "nothing": (b"", "no GGUF file"),
    "another format": (header(magic=b"GGML"), "no GGUF file"),
    "only magic": (b"GGUF", "no GGUF file"),
    "version 1": (header(version=1), "has GGUF version 1; get a file of version 3"),
    "big endian": (header(version=3 << 24), "is a big-endian GGUF file"),
    "many tensors": (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "tensors cannot be right"),
    "many entries": (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "metadata entries cannot be right"),
    "a long key": (header(entries=struct.pack("<Q", 1 << 60), count=1), "bytes of a metadata key cannot be right"),
    "a long text": (
        header(entries=text("k") + struct.pack("<IQ", 8, 1 << 60), count=1),
        "bytes of metadata entry 'k' cannot be right",
    ),
    "a long array": (
        header(entries=text("k") + struct.pack("<IIQ", 9, 10, 1 << 60), count=1),
        "values of 'k' cannot be right",
    ),
    "an array longer than the file": (
        header(entries=text("k") + struct.pack("<IIQ", 9, 10, 1 << 20), count=1),
        "inside its header",
    ),
    "texts longer than the file": (
        header(entries=text("k") + struct.pack("<IIQQ", 9, 8, 2, 1 << 62), count=1),
        "inside its header",
    ),
    "arrays in arrays": (header(entries=text("k") + struct.pack("<IIQ", 9, 9, 1), count=1), "is an array of arrays"),
    "an unknown type of value": (header(entries=text("k") + struct.pack("<I", 13), count=1), "metadata type"),
    "a key twice": (header(entries=2 * (text("k") + struct.pack("<II", 4, 1)), count=2), "'k' is there twice"),
    "no UTF-8": (header(entries=struct.pack("<Q", 1) + b"\xff" + struct.pack("<II", 4, 1), count=1), "is not UTF-8"),
    "a tensor twice": (header([("t", [8], F32, 0), ("t", [8], F32, 32)]), "tensor 't' is there twice"),
    "five dimensions": (header([("t", [1] * 5, F32, 0)]), "5 dimensions of tensor 't' cannot be right"),
    "no dimensions": (header([("t", [], F32, 0)]), "impossible shape []"),
    "a size of zero": (header([("t", [0], F32, 0)]), "impossible shape [0]"),
    "an unknown type": (header([("t", [8], 5, 0)]), "unknown type 5"),
    "a row that is no multiple of a block": (header([("t", [8], 39, 0)]), "is MXFP4 with rows of 8, no multiple of 32"),
    "a huge tensor": (header([("t", [1 << 47] * 4, F32, 0)]), "it is truncated"),
    "an offset beyond the file": (header([("t", [8], F32, 1 << 62)]), "it is truncated"),
    "no alignment": (header([("t", [7], F32, 0), ("u", [7], F32, 28)]), "tensor 'u' is not aligned to 32 bytes"),
    "an overlap": (header([("t", [8], F32, 0), ("u", [8], F32, 0)]), "overlap"),
    "a hole": (header([("t", [8], F32, 64), ("u", [1], F32, 0)]) + b"\0" * 32, "a hole of 60 bytes before tensor 't'"),
    "padding": (header([("t", [8], F32, 0)]) + b"\0" * 32, "32 bytes after the last tensor"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is a Git LFS pointer"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_header_is_refused_in_one_line(tmp_path, name):
    data, said = HOSTILE[name]
    (tmp_path / "m.gguf").write_bytes(data)
    line = refusal(tmp_path / "m.gguf")
    assert line.startswith(f"{tmp_path / 'm.gguf'}: ")
    assert said in line


def test_the_formats_second_version_is_read_too(tmp_path):
    data = bytearray(write(tmp_path).read_bytes())
    assert data[4] == 3
    data[4] = 2
    (tmp_path / "old.gguf").write_bytes(data)
    assert open_checkpoint(tmp_path / "old.gguf").config == open_checkpoint(tmp_path / "m.gguf").config


def test_a_tensor_in_two_parts_is_refused(tmp_path):
    write(tmp_path / "parts", tensors_in_part=9)
    second = sorted((tmp_path / "parts").iterdir())[1]
    second.write_bytes(second.read_bytes().replace(b"blk.0.ffn_up_exps.bias", b"blk.0.attn_norm.weight"))
    assert refusal(tmp_path / "parts") == f"{second}: tensor 'blk.0.attn_norm.weight' is there twice; download it again"


def test_a_header_without_an_end_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(gguf_header, "MAX_HEADER_BYTES", 1 << 20)
    entry = text("k") + struct.pack("<IQ", 8, 1 << 20)
    (tmp_path / "m.gguf").write_bytes(header(entries=entry, count=1) + b"\0" * (8 << 20))
    assert "a header of more than 1 MB cannot be right" in refusal(tmp_path / "m.gguf")


def test_the_command_line_converts_a_file_and_names_the_model_after_it(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path / "home"))
    write(tmp_path, name="gpt-oss-20b-mxfp4.gguf")
    code, out, err = run_cli("convert", tmp_path / "gpt-oss-20b-mxfp4.gguf")
    assert code == 0, err
    assert "Source layout" in out
    manifest = tmp_path / "home" / "models" / "gpt-oss-20b-mxfp4" / "manifest.json"
    assert json.loads(manifest.read_text())["source"]["layout"] == "GGUF"
