"""An unusable checkpoint gives one line with the file and the remedy, and an exit code. Nothing is left behind."""

import json
import os
import shutil
from pathlib import Path

import pytest

from convert import convert
from gptoss_mlx.errors import CheckpointError
from tests.support.checkpoints import SMALL, write_checkpoint
from tests.support.cli import run_cli

SIZES = SMALL | {"num_hidden_layers": 1}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pristine")
    for layout in ("hf", "original"):
        write_checkpoint(folder / layout, SIZES, layout, shards=3)
        write_checkpoint(folder / f"{layout}-single", SIZES, layout)
    return folder


@pytest.fixture
def source(pristine, tmp_path):
    """A sharded Hugging Face checkpoint to damage."""
    return Path(shutil.copytree(pristine / "hf", tmp_path / "source"))


def refusal(source: Path, tmp_path: Path) -> str:
    """Return the one line that ``gptoss-mac convert`` prints about a source."""
    (tmp_path / "made").mkdir(exist_ok=True)
    code, out, err = run_cli("convert", source, "--out", tmp_path / "made" / "deep" / "model")
    assert code == 3, (out, err)
    assert out == ""
    lines = [line for line in err.splitlines() if not line.startswith("Converting:")]
    assert len(lines) == 1, err
    assert lines[0].startswith("gptoss-mac: ")
    assert list((tmp_path / "made").iterdir()) == []
    return lines[0].removeprefix("gptoss-mac: ")


def edit_json(path: Path, edit) -> None:
    raw = json.loads(path.read_text())
    edit(raw)
    path.write_text(json.dumps(raw))


def shard_of(folder: Path, name: str) -> Path:
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return folder / "model.safetensors"
    return folder / json.loads(index.read_text())["weight_map"][name]


def edit_header(path: Path, edit) -> None:
    """Rewrite a file's header and keep its data. The header's length may change."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    edit(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def test_a_folder_that_is_no_checkpoint(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "notes.txt").write_text("nothing here")
    line = refusal(tmp_path / "source", tmp_path)
    assert line.startswith(f"{tmp_path / 'source'}: no checkpoint here, looked for config.json and *.safetensors")
    assert "`gptoss-mac convert 20b` downloads one" in line


def test_a_path_that_is_no_folder(tmp_path):
    assert "no such folder" in refusal(tmp_path / "nowhere", tmp_path)
    (tmp_path / "file").write_text("")
    assert "is no GGUF file" in refusal(tmp_path / "file", tmp_path)


def test_weights_without_a_config(source, tmp_path):
    (source / "config.json").unlink()
    assert refusal(source, tmp_path) == f"{source / 'config.json'}: missing; download it again"


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\x00\xff"])
def test_a_damaged_config(source, tmp_path, text):
    (source / "config.json").write_text(text, encoding="latin-1")
    assert refusal(source, tmp_path).startswith(f"{source / 'config.json'}: damaged")


def test_another_model_type(source, tmp_path):
    edit_json(source / "config.json", lambda raw: raw.update(model_type="llama"))
    line = refusal(source, tmp_path)
    assert line.startswith(f"{source / 'config.json'}: model_type is 'llama'; only gpt-oss")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", '"hot"'),
        ("temperature", "-1"),
        ("temperature", "1e400"),
        ("temperature", "1" + "0" * 400),
        ("top_p", "true"),
        ("top_p", "0"),
        ("min_p", "NaN"),
        ("top_k", "50.5"),
        ("top_k", "1" + "0" * 400),
        ("do_sample", '"1"'),
        ("do_sample", "0"),
        ("eos_token_id", "[[1]]"),
        ("eos_token_id", "true"),
        ("eos_token_id", "1e400"),
    ],
)
def test_generation_defaults_that_cannot_be_used(source, tmp_path, name, value):
    (source / "generation_config.json").write_text(f'{{"{name}": {value}}}')
    line = refusal(source, tmp_path)
    assert line.startswith(f"{source}/generation_config.json: {name} is ")
    assert line.endswith("; download it again")


@pytest.mark.parametrize("text", ['{"unused": 1e400}', '{"unused": [NaN]}'])
def test_generation_defaults_that_no_model_folder_can_keep(source, tmp_path, text):
    (source / "generation_config.json").write_text(text)
    assert "it holds a number that JSON has not, or is nested too deeply" in refusal(source, tmp_path)


def test_a_number_no_constant_can_be(source, tmp_path):
    edit_json(source / "config.json", lambda raw: raw["rope_scaling"].update(beta_fast=1e308))
    assert "rope beta_fast is out of range" in refusal(source, tmp_path)


def rewritten(path):
    """Replace a file by another with the same name, bytes and modification time."""
    before = path.stat()
    new = path.with_name("new")
    shutil.copyfile(path, new)
    os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
    new.replace(path)


def written_to(path):
    with path.open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(b" }" if path.suffix == ".json" else b"\1\1")
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))  # the file system's clock may be too coarse to show the change


def removed(path):
    path.unlink()


@pytest.mark.parametrize("change", [rewritten, written_to, removed])
@pytest.mark.parametrize(
    "file",
    ["model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors", "config.json", "tokenizer.json"],
)
def test_a_source_that_changes_while_it_is_converted(source, tmp_path, file, change):
    """A change is detected in a file that was read already, and in one that will be read later."""
    done_at = []

    def progress(done, total):
        if done == total and not done_at:
            done_at.append(done)
            change(source / file)

    with pytest.raises(CheckpointError) as caught:
        convert(source, tmp_path / "made" / "model", progress=progress)
    assert str(caught.value) == (
        f"{source / file}: changed while it was converted; convert again once nothing writes it"
    )
    assert not (tmp_path / "made").exists()


def test_a_file_that_appears_beside_the_source_does_not_matter_unless_it_is_a_part_of_it(source, tmp_path):
    (source / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    shutil.copyfile(source.parent / "tokenizer.json", tmp_path / "README.md")

    def progress(done, total):
        shutil.copyfile(tmp_path / "README.md", source / "README.md")

    convert(source, tmp_path / "model", progress=progress)

    def completed(done, total):
        shutil.copyfile(tmp_path / "tokenizer.json", source / "tokenizer.json")

    with pytest.raises(CheckpointError, match=r"tokenizer\.json: changed while it was converted"):
        convert(source, tmp_path / "other", progress=completed)


def test_a_model_folder_in_place_of_a_checkpoint(pristine, tmp_path):
    assert run_cli("convert", pristine / "hf", "--out", tmp_path / "model")[0] == 0
    assert "is a model folder already" in refusal(tmp_path / "model", tmp_path)


def test_a_missing_shard(source, tmp_path):
    shard = source / "model-00002-of-00003.safetensors"
    shard.unlink()
    assert refusal(source, tmp_path) == f"{shard}: missing; download it again"
    (source / "model.safetensors.index.json").unlink()
    assert refusal(source, tmp_path) == f"{shard}: missing; download it again"


@pytest.mark.parametrize("layout", ["hf", "original", "hf-single", "original-single"])
def test_a_truncated_file(pristine, tmp_path, layout):
    source = Path(shutil.copytree(pristine / layout, tmp_path / "source"))
    shard = sorted(source.glob("*.safetensors"))[-1]
    data = shard.read_bytes()
    for size in (0, 5, 8, 200, len(data) // 2, len(data) - 1):
        shard.write_bytes(data[:size])
        line = refusal(source, tmp_path)
        assert line.startswith(f"{shard}: ")
        assert "truncated" in line
        assert line.endswith("; download it again")


def test_a_file_that_goes_on(source, tmp_path):
    shard = source / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes() + b"more")
    assert refusal(source, tmp_path) == f"{shard}: 4 bytes after the last tensor; download it again"


@pytest.mark.parametrize("file", ["model-00002-of-00003.safetensors", "tokenizer.json", "config.json"])
def test_a_git_lfs_pointer_in_place_of_a_file(source, tmp_path, file):
    (source / file).write_text(POINTER)
    line = refusal(source, tmp_path)
    assert line.startswith(f"{source / file}: is a Git LFS pointer")
    assert "run `git lfs pull` in that folder" in line


def test_an_error_page_in_place_of_a_shard(source, tmp_path):
    shard = source / "model-00001-of-00003.safetensors"
    shard.write_text("<!DOCTYPE html><html><body>503 Service Unavailable</body></html>")
    assert "this is no safetensors file" in refusal(source, tmp_path)


SINKS = "model.layers.0.self_attn.sinks"
ROUTER = "model.layers.0.mlp.router.weight"
BLOCKS = "model.layers.0.mlp.experts.down_proj_blocks"


def change(name, **fields):
    return name, lambda header: header[name].update(fields)


def shift(name, by):
    def edit(header):
        header[name]["data_offsets"] = [offset + by for offset in header[name]["data_offsets"]]

    return name, edit


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (shift(SINKS, -2), "overlap"),
        (shift(SINKS, 2), "a hole of 2 bytes"),
        (shift(SINKS, 1 << 40), "truncated"),
        (change(SINKS, shape=[15]), "spans 32 bytes where BF16 [15] needs 30"),
        (change(SINKS, shape=[16.0]), "impossible shape"),
        (change(SINKS, shape=[True, 16]), "impossible shape"),
        (change(SINKS, dtype="I16"), "is I16 [16], config.json needs BF16 or F16 or F32 [16]"),
        (change(SINKS, dtype="BF61"), "unknown dtype 'BF61'"),
        (change(ROUTER, shape=[128, 8]), "is BF16 [128, 8], config.json needs BF16 or F16 or F32 [8, 128]"),
        (change(BLOCKS, shape=[8, 128, 48]), "is U8 [8, 128, 48], config.json needs U8 [8, 128, 3, 16]"),
        (change(BLOCKS, shape=[1 << 30, 1 << 30, 1 << 30, 1 << 30]), "spans"),
        (change(SINKS, data_offsets=[-32, 0]), "impossible span"),
        (change(SINKS, surprise=1), "damaged header entry"),
        ((SINKS, lambda header: header.update({SINKS: None})), "damaged header entry"),
    ],
)
def test_a_header_that_lies(source, tmp_path, damage, expected):
    name, edit = damage
    shard = shard_of(source, name)
    edit_header(shard, edit)
    line = refusal(source, tmp_path)
    assert line.startswith(f"{shard}: ")
    assert f"'{name}'" in line
    assert expected in line


def test_a_config_of_other_sizes(source, tmp_path):
    edit_json(source / "config.json", lambda raw: raw.update(intermediate_size=128))
    assert "config.json needs U8 [8, 256, 4, 16]" in refusal(source, tmp_path)
    edit_json(
        source / "config.json", lambda raw: raw.update(intermediate_size=96, num_hidden_layers=2, layer_types=None)
    )
    assert "tensor 'model.layers.1.input_layernorm.weight' is missing (and 18 more)" in refusal(source, tmp_path)


def test_a_tensor_too_many(source, tmp_path):
    shard = shard_of(source, SINKS)
    edit_header(shard, lambda header: header.update({"lora_A": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}))
    assert refusal(source, tmp_path).startswith(f"{shard}: tensor 'lora_A' is not one of gpt-oss")


def test_a_name_cannot_break_the_line_or_reach_the_terminal(source, tmp_path):
    shard = shard_of(source, SINKS)
    hostile = {"a\n\x1b[31mb": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}
    edit_header(shard, lambda header: header.update(hostile))
    assert r"tensor 'a\n\x1b[31mb' is not one of gpt-oss" in refusal(source, tmp_path)


def test_a_path_too_long(tmp_path):
    assert "cannot be read (File name too long)" in refusal(tmp_path / ("x" * 300), tmp_path)


def test_a_tensor_too_few(source, tmp_path):
    shard = shard_of(source, SINKS)
    edit_header(shard, lambda header: header.update({"renamed": header.pop(SINKS)}))
    assert f"tensor '{SINKS}' is missing, model.safetensors.index.json says it is there" in refusal(source, tmp_path)
    (source / "model.safetensors.index.json").unlink()
    assert refusal(source, tmp_path) == f"{source}: tensor '{SINKS}' is missing; download it again"


def test_a_tensor_in_two_shards(source, tmp_path):
    other = next(path for path in sorted(source.glob("*.safetensors")) if path != shard_of(source, SINKS))
    edit_header(other, lambda header: header.update({SINKS: {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}))
    assert f"tensor '{SINKS}' is in " in refusal(source, tmp_path)


def test_another_models_tensors(source, tmp_path):
    for shard in source.glob("*.safetensors"):
        edit_header(shard, lambda header: [header.update({f"x.{name}": header.pop(name)}) for name in list(header)])
    (source / "model.safetensors.index.json").unlink()
    assert "holds neither 'model.embed_tokens.weight' (Hugging Face layout) nor" in refusal(source, tmp_path)


@pytest.mark.parametrize(
    "file", ["../secret.safetensors", "/etc/secret.safetensors", "a/b.safetensors", "x.bin", 7, None]
)
def test_an_index_that_leads_out_of_the_folder(source, tmp_path, file):
    edit_json(source / "model.safetensors.index.json", lambda raw: raw["weight_map"].update({SINKS: file}))
    assert "is no shard's file name" in refusal(source, tmp_path)


@pytest.mark.parametrize("raw", [{}, {"weight_map": {}}, {"weight_map": []}])
def test_an_index_of_nothing(source, tmp_path, raw):
    (source / "model.safetensors.index.json").write_text(json.dumps(raw))
    assert "no weight_map" in refusal(source, tmp_path)


@pytest.mark.parametrize("scale", [241, 255])
@pytest.mark.parametrize(
    ("layout", "name"),
    [("hf", "model.layers.0.mlp.experts.down_proj_scales"), ("original", "block.0.mlp.mlp1_weight.scales")],
)
def test_an_unusable_scale(pristine, tmp_path, layout, name, scale):
    source = Path(shutil.copytree(pristine / layout, tmp_path / "source"))
    shard = shard_of(source, name)
    data = bytearray(shard.read_bytes())
    length = int.from_bytes(data[:8], "little")
    end = json.loads(data[8 : 8 + length])[name]["data_offsets"][1]
    data[8 + length + end - 1] = scale
    shard.write_bytes(data)
    assert f"tensor '{name}' has an MXFP4 scale of {scale}, at most 240 is usable" in refusal(source, tmp_path)


def test_a_tokenizer_that_is_none(source, tmp_path):
    (source / "tokenizer.json").write_text("{}")
    assert refusal(source, tmp_path).startswith(f"{source / 'tokenizer.json'}: no gpt-oss tokenizer")
