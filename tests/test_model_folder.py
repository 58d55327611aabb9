"""The on-disk format: written folders are read back, other tools can open them, and damaged ones are refused."""

import json
import os
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors import safe_open

from gptoss_mlx.config import ModelConfig
from gptoss_mlx.errors import ModelFolderError
from gptoss_mlx.model.weights import load_weights
from gptoss_mlx.model_folder import ALIGNMENT, ModelFolder, Stretch
from gptoss_mlx.model_folder.safetensors import nbytes_of
from tests.support.checkpoints import SMALL, hf_config
from tests.support.model_folders import array_of, dtype_of, random_bits, write_model_folder

CONFIG = ModelConfig.from_dict(hf_config(SMALL | {"num_hidden_layers": 2}))
LAYER = "model-layer-001.safetensors"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return write_model_folder(tmp_path_factory.mktemp("folder") / "model", CONFIG)


@pytest.fixture
def folder(pristine, tmp_path):
    """Return a copy that a test may damage."""
    return Path(shutil.copytree(pristine, tmp_path / "model"))


def test_what_was_written_is_read_back(pristine):
    model = ModelFolder.open(pristine)
    assert model.config == CONFIG
    assert model.generation == {"do_sample": True}
    assert model.manifest["quantization"]["dense"] == "q8"
    assert model.tokenizer_path is None
    assert model.names()[:4] == [
        "embedding.weight",
        "embedding.scales",
        "embedding.biases",
        "layers.0.attn_norm.weight",
    ]
    assert len(model.names()) == 3 + 2 * 19 + 4
    for name in model.names():
        array = array_of(model, name)
        assert array.tobytes() == random_bits(name, array.nbytes), name
        assert not array.flags.writeable, name
    assert array_of(model, "layers.1.experts.gate_up.weight").shape == (8, 192, 16)
    assert dtype_of(model, "layers.1.experts.gate_up.weight") == "U32"
    model.verify()


@pytest.mark.parametrize("dense", ["q8", "bf16"])
def test_a_shard_is_an_ordinary_safetensors_file(tmp_path, dense):
    path = write_model_folder(tmp_path / "model", CONFIG, dense, norm_dtype="F32")
    model = ModelFolder.open(path)
    index = json.loads((path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(model.names())
    for file in path.glob("*.safetensors"):
        with safe_open(file, "numpy") as shard:
            for name in shard.keys():  # noqa: SIM118 (not a dict)
                if name.startswith("filler."):
                    assert not shard.get_tensor(name).any()
                    continue
                assert index["weight_map"][name] == file.name
                if dtype_of(model, name) != "BF16":  # numpy has none
                    assert np.array_equal(shard.get_tensor(name), array_of(model, name)), name


def test_stretches_are_whole_pages_dense_first_then_experts(pristine):
    model = ModelFolder.open(pristine)
    embedding, *layers, head = model.stretches()
    assert ("embedding.weight" in embedding.tensors, "norm.weight" in head.tensors) == (True, True)
    assert [name for stretch in model.stretches() for name in stretch.tensors] == model.names()
    for dense, experts in zip(layers[::2], layers[1::2], strict=True):
        assert dense.offset + dense.nbytes == experts.offset
        assert experts.offset + experts.nbytes == experts.file.stat().st_size
        assert len(dense.tensors) == 13
        assert len(experts.tensors) == 6
        for stretch in (dense, experts):
            data = model.stretch_bytes(stretch)
            assert data.ctypes.data % os.sysconf("SC_PAGE_SIZE") == 0
            assert stretch.offset % ALIGNMENT == stretch.nbytes % ALIGNMENT == 0
            for name, (offset, dtype, shape) in stretch.tensors.items():
                nbytes = nbytes_of(dtype, shape)
                assert offset % ALIGNMENT == 0
                assert data[offset : offset + nbytes].tobytes() == random_bits(name, nbytes)


def refusal(folder: Path) -> str:
    with pytest.raises(ModelFolderError) as caught:
        ModelFolder.open(folder)
    line = str(caught.value)
    assert "\n" not in line
    return line


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_header(path: Path, edit) -> None:
    """Rewrite a shard's header with the same length, so the data does not move."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    edit(header)
    path.write_bytes(data[:8] + json.dumps(header).encode().ljust(length)[:length] + data[8 + length :])


def test_a_newer_format_says_to_update(folder):
    edit_json(folder / "manifest.json", format_version=2)
    assert "format version 2 is newer than this program's 1; update gptoss-mac" in refusal(folder)


def test_a_folder_that_is_no_model_says_how_to_make_one(tmp_path):
    assert "no manifest.json; make one with `gptoss-mac convert`" in refusal(tmp_path)
    assert "no such folder" in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize("file", ["config.json", "generation_config.json", "model.safetensors.index.json"])
def test_a_changed_small_file_is_refused(folder, file):
    edit_json(folder / file, surprise=1)
    assert refusal(folder).startswith(f"{folder / file}: differs")


@pytest.mark.parametrize(
    "changes",
    [
        {"tensors": {}},
        {"tensors": None},
        {"quantization": {"dense": "q4"}},
        {"files": {"../../secret": "0" * 64}},
        {"files": {}},
        {"format_version": "1"},
    ],
)
def test_a_damaged_manifest_is_refused(folder, changes):
    edit_json(folder / "manifest.json", **changes)
    assert str(folder / "manifest.json") in refusal(folder)


def test_manifest_that_is_no_json_is_refused(folder):
    for text in ("", "[" * 100_000, "\xff", "[]"):
        (folder / "manifest.json").write_text(text, encoding="latin-1")
        assert "manifest.json: damaged" in refusal(folder)


def test_missing_and_truncated_shards_are_refused(folder):
    shard = folder / LAYER
    data = shard.read_bytes()
    for size in (0, 7, 100, 20_000, len(data) - 1):
        shard.write_bytes(data[:size])
        assert f"{shard}: " in (line := refusal(folder))
        assert "truncated" in line
    shard.write_bytes(data + b"\0")
    assert "1 bytes after the last tensor" in refusal(folder)
    shard.unlink()
    assert f"{shard}: missing" in refusal(folder)


@pytest.mark.parametrize("moment", range(5))
def test_a_shard_that_vanishes_at_any_moment_is_one_line(folder, monkeypatch, moment):
    """An external disk is removed: the file exists when it is looked for, and is absent when it is opened."""
    shard = folder / LAYER
    real = Path.open
    left = moment

    def vanishing(path, *args, **named):
        nonlocal left
        if path == shard:
            left -= 1
            if left < 0:
                raise FileNotFoundError(2, "No such file or directory", str(path))
        return real(path, *args, **named)

    monkeypatch.setattr(Path, "open", vanishing)
    with pytest.raises(ModelFolderError) as refused:
        array_of(ModelFolder.open(folder), "layers.1.sinks")
    assert str(refused.value) == f"{shard}: missing; convert the model again"


def test_a_symbolic_link_in_place_of_a_shard_is_refused(folder, tmp_path):
    shutil.move(folder / LAYER, tmp_path / "elsewhere")
    (folder / LAYER).symlink_to(tmp_path / "elsewhere")
    assert "is a symbolic link" in refusal(folder)


def set_entry(name, **changes):
    def edit(header):
        header[name].update(changes)

    return edit


def swap_spans(header):
    a = header["layers.1.attn_norm.weight"]
    b = header["layers.1.o.bias"]
    a["data_offsets"], b["data_offsets"] = b["data_offsets"], a["data_offsets"]


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (set_entry("layers.1.sinks", dtype="F16"), "is F16 [16], config.json needs BF16 [16]"),
        (set_entry("layers.1.router.weight", shape=[128, 8]), "config.json needs BF16 [8, 128]"),
        (set_entry("layers.1.sinks", shape=[17]), "spans 32 bytes where BF16 [17] needs 34"),
        (set_entry("layers.1.sinks", dtype="Q9"), "unknown dtype 'Q9'"),
        (set_entry("layers.1.sinks", shape=[-4, -4]), "impossible shape"),
        (set_entry("layers.1.sinks", data_offsets=[0, 32]), "overlap"),
        (set_entry("layers.1.sinks", data_offsets=[1 << 40, (1 << 40) + 32]), "truncated"),
        (set_entry("layers.1.sinks", data_offsets=[32, 0]), "impossible span"),
        (lambda h: h.update({"layers.1.unks": h.pop("layers.1.sinks")}), "'layers.1.sinks' is missing"),
        (lambda h: h.update({"extra": h.pop("filler.model-layer-001.0")}), "unknown tensor 'extra'"),
        (lambda h: h.pop("filler.model-layer-001.0"), "a hole of"),
        (swap_spans, "'layers.1.attn_norm.weight' is not at byte 16,384"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(folder, edit, expected):
    edit_header(folder / LAYER, edit)
    assert expected in refusal(folder)


def test_a_tensor_off_its_page_is_refused(folder):
    def edit(header):
        filler = header["filler.model-layer-001.5"]
        sinks = header["layers.1.sinks"]
        start = sinks["data_offsets"][0]
        end = filler["data_offsets"][1]
        filler["data_offsets"] = [start, end - 32]
        sinks["data_offsets"] = [end - 32, end]

    edit_header(folder / LAYER, edit)
    assert "'layers.1.sinks' is not at byte" in refusal(folder)


def test_a_huge_header_is_refused_unread(folder):
    with (folder / LAYER).open("r+b") as file:
        file.write((1 << 60).to_bytes(8, "little"))
    assert "a header of 1,152,921,504,606,846,976 bytes cannot be right" in refusal(folder)


def test_a_name_twice_in_a_header_is_refused(folder):
    data = (folder / LAYER).read_bytes()
    (folder / LAYER).write_bytes(data.replace(b'"layers.1.o.bias"', b'"layers.1.sinks" ', 1))
    assert "'layers.1.sinks' is there twice" in refusal(folder)


def poke(folder: Path, name: str, at: int, value: int) -> None:
    experts = ModelFolder.open(folder).stretches()[4]
    with (folder / LAYER).open("r+b") as file:
        file.seek(experts.offset + experts.tensors[name][0] + at)
        file.write(bytes([value]))


def test_a_scale_above_240_is_refused(folder):
    poke(folder, "layers.1.experts.down.scales", 3071, 240)
    ModelFolder.open(folder)
    poke(folder, "layers.1.experts.down.scales", 3071, 241)
    assert "'layers.1.experts.down.scales' has an MXFP4 scale of 241" in refusal(folder)


def read(model: ModelFolder, stretch: Stretch) -> np.ndarray:
    memory = np.empty(stretch.nbytes, np.uint8)
    model.read_into(stretch, memory.data)
    return memory


@pytest.mark.parametrize("size", [0, 20_000])
@pytest.mark.parametrize("mapped", [False, True])
def test_a_shard_cut_short_while_it_is_open_is_an_error(folder, size, mapped):
    """Access to a page that a mapped file has lost would kill this process."""
    model = ModelFolder.open(folder)
    experts = model.stretches()[4]
    if mapped:
        model.stretch_bytes(experts)
    os.truncate(folder / LAYER, size)
    with pytest.raises(ModelFolderError, match=rf"{LAYER}: truncated"):
        load_weights(model, mx.float32)
    for access in (
        lambda: read(model, experts),
        lambda: model.stretch_bytes(experts),
        lambda: array_of(model, "layers.1.experts.down.scales"),
        model.verify,
    ):
        with pytest.raises(ModelFolderError, match=rf"{LAYER}: truncated .*; convert the model again"):
            access()
    assert array_of(model, "layers.0.sinks").any(), "the other shards are whole"


def test_what_is_read_is_what_is_mapped(pristine):
    model = ModelFolder.open(pristine)
    for stretch in model.stretches():
        assert np.array_equal(read(model, stretch), model.stretch_bytes(stretch))


def test_verify_finds_one_changed_byte_and_names_its_tensor(folder):
    poke(folder, "layers.1.experts.gate_up.weight", 5000, 255)
    calls = []
    with pytest.raises(ModelFolderError, match=r"tensor 'layers\.1\.experts\.gate_up\.weight' is damaged"):
        ModelFolder.open(folder).verify(lambda done, total: calls.append((done, total)))
    assert calls
    assert calls == sorted(calls)
    assert calls[-1][0] <= calls[-1][1]
