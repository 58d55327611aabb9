"""A checkpoint on the Hub becomes the model that its folder becomes, within the room that was said, after any end."""

import json
import os
import random
import re
import signal
import time
from pathlib import Path

import pytest

from convert import convert
from convert.arriving import Watch, convert_remote
from convert.pieces import Piece, SourceTensor
from convert.remote import _most_at_once, look
from gptoss_mlx.errors import CheckpointError, HubError, StorageError
from gptoss_mlx.home import hidden_folder
from gptoss_mlx.hub import HubFile, Settings
from gptoss_mlx.model_folder import ModelFolder
from gptoss_mlx.model_folder.safetensors import StoredTensor
from tests.convert.test_conversion import shard_bytes
from tests.hub.conftest import hub  # noqa: F401 (a fixture)
from tests.hub.kills import Downloads
from tests.support import fine_tunes
from tests.support.checkpoints import SMALL, write_checkpoint
from tests.support.fake_hub import Fault, Stored, files_of

REPO = "openai/gpt-oss-20b"
QUICK = Settings(piece=64 << 10, first_pause=0.01, timeout=5)
SHARDS = 4


class Stop(Exception):
    """Raised by a test's progress report."""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("source") / "hf", SMALL | {"num_hidden_layers": 3}, "hf", SHARDS)


@pytest.fixture(scope="module")
def expected(source, tmp_path_factory):
    return convert(source, tmp_path_factory.mktemp("expected") / "model")


@pytest.fixture
def served(hub, source):  # noqa: F811
    hub.files = files_of(source)
    return hub


@pytest.fixture
def place(tmp_path):
    return tmp_path / "models" / "20b"


def get(hub, place, watch=Watch(), **options):  # noqa: B008, F811
    return convert_remote(look(REPO, place, endpoint=hub.address, settings=QUICK, **options), watch, settings=QUICK)


def weights_sent(hub, piece):  # noqa: F811
    """Return how many bytes were sent for pieces. ``look`` asks for other ranges from the beginning of a file."""
    asked = [
        request for request in hub.asked("cdn") if re.match(rf"bytes=(0-{piece - 1}$|[1-9])", request.headers["Range"])
    ]
    return sum(request.sent for request in asked)


def on_disk(folder):
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("dense", ["q8", "bf16"])
def test_the_model_is_the_one_that_a_folder_becomes(served, source, place, tmp_path, dense):
    report = get(served, place, dense=dense)
    local = convert(source, tmp_path / "local", dense=dense)
    assert shard_bytes(place) == shard_bytes(local.destination)
    ours, theirs = ModelFolder.open(place).manifest, ModelFolder.open(local.destination).manifest
    assert ours["source"].pop("commit") == "0123456789abcdef0123456789abcdef01234567"
    assert ours["source"].pop("folder") == REPO
    theirs["source"].pop("folder")
    assert ours == theirs
    assert (report.tensors, report.bytes_read, report.tokenizer) == (local.tensors, local.bytes_read, "checkpoint")
    assert os.listdir(place.parent) == ["20b"], "nothing is left over"


def test_the_disk_holds_the_model_and_two_files_at_most(served, place):
    remote = look(REPO, place, endpoint=served.address, settings=QUICK)
    sizes = sorted(file.size for file in remote.weights)
    small = sum(file.size for file in remote.small)
    assert len(sizes) == SHARDS
    assert remote.most <= remote.after + sum(sizes[-2:]) + small
    seen = []
    measure = lambda *report: seen.append(on_disk(place.parent))  # noqa: E731
    convert_remote(remote, Watch(measure, measure), settings=QUICK)
    blocks = 4096 * 30  # a file takes whole blocks, and the parts have states
    assert len(seen) > 20
    assert remote.after < max(seen) <= remote.most + blocks
    assert sum(sizes) > sum(sizes[-2:]) + blocks, "two files are fewer than all"
    assert on_disk(place.parent) <= remote.after + blocks


def test_a_kept_source_is_whole(served, source, place, tmp_path):
    get(served, place, keep=tmp_path / "kept")
    assert os.listdir(place.parent) == ["20b"]
    kept = {path.name: path.read_bytes() for path in (tmp_path / "kept").iterdir()}
    assert kept == {path.name: path.read_bytes() for path in source.iterdir()}


def test_a_tensor_in_two_files_keeps_the_first_until_the_second_is_there():
    files = tuple(
        HubFile(f"{name}.safetensors", size, "0" * 64, True) for name, size in zip("abcd", (5, 7, 11, 3), strict=True)
    )
    tensors = [SourceTensor(file.name, Path(file.name), StoredTensor("U8", (1,), 0, 1)) for file in files]

    def piece(*numbers):
        return Piece(("x",), 0, 1, tuple(tensors[n] for n in numbers), "U8", lambda reader: iter(()))

    alone = [piece(0), piece(1), piece(2), piece(3)]
    assert _most_at_once(files, alone) == 7 + 11
    assert _most_at_once(files, [*alone, piece(0, 2)]) == 5 + 7 + 11


def stopping_after(count):
    """Return a progress report that raises at its ``count``-th call."""
    calls = 0

    def report(done, total):
        nonlocal calls
        calls += 1
        if calls == count:
            raise Stop

    return report


def test_what_has_arrived_and_was_converted_is_kept_after_any_stop(served, expected, place):
    stops = 0
    for count in range(1, 200, 7):
        try:
            get(served, place, Watch(converting=stopping_after(count)))
        except Stop:
            stops += 1
            assert os.listdir(place.parent) == [".20b.partial"]
        if place.exists():
            break
    assert stops > 3
    assert shard_bytes(place) == shard_bytes(expected.destination)
    assert os.listdir(place.parent) == ["20b"]


@pytest.mark.parametrize(
    ("form", "experts"),
    [
        (
            fine_tunes.tuned(fine_tunes.full(SMALL), layers="layers.0."),
            "MXFP4, quantized from bfloat16, error 0.5%",  # of one layer of four
        ),
        (fine_tunes.mlx_lm(SMALL, dense="q8"), "MXFP4, bit for bit"),
    ],
    ids=["fine-tune", "mlx-lm"],
)
def test_what_other_programs_wrote_reports_the_same_after_any_stop(hub, place, tmp_path, form, experts):  # noqa: F811
    source = fine_tunes.write(tmp_path / "source", SMALL, form, shards=3)
    hub.files = files_of(source)
    local = convert(source, tmp_path / "local")
    report = None
    stops = 0
    for count in range(1, 400, 30):
        try:
            report = get(hub, place, Watch(converting=stopping_after(count)))
            break
        except Stop:
            stops += 1
    assert stops > 1
    assert shard_bytes(place) == shard_bytes(local.destination)
    assert (report.layout, report.experts, report.losses) == (local.layout, experts, local.losses)


def test_a_finished_file_is_not_fetched_again(served, place, expected):
    remote = look(REPO, place, endpoint=served.address, settings=QUICK)
    last = remote.weights[-1]
    served.faults.append(Fault("cdn", f"/repos/{last.digest}", times=10**6, status=404))
    with pytest.raises(HubError):
        convert_remote(remote, Watch(), settings=QUICK)
    served.faults.clear()
    before = len(served.requests)
    again = look(REPO, place, endpoint=served.address, settings=QUICK)
    assert again.there >= remote.plan.nbytes - last.size - 4096
    convert_remote(again, Watch(), settings=QUICK)
    asked = {request.path.split("?")[0] for request in served.requests[before:] if request.headers.get("If-Range")}
    assert asked <= {f"/repos/{last.digest}"}
    assert shard_bytes(place) == shard_bytes(expected.destination)


def test_a_download_with_other_options_starts_over_and_says_so(served, source, place, tmp_path):
    with pytest.raises(Stop):
        get(served, place, Watch(converting=stopping_after(5)))
    said = []
    get(served, place, Watch(say=said.append), dense="bf16")
    assert said == ["what was downloaded before is from another version or with other options, starting over"]
    assert shard_bytes(place) == shard_bytes(convert(source, tmp_path / "x", dense="bf16").destination)


def test_a_damaged_journal_starts_over(served, place, expected):
    with pytest.raises(Stop):
        get(served, place, Watch(converting=stopping_after(40)))
    journal = hidden_folder(place) / "download" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-1] + b"x\n")
    get(served, place)
    assert shard_bytes(place) == shard_bytes(expected.destination)


@pytest.mark.parametrize(
    "line",
    [
        '{"file": ["x"]}',
        '{"file": ["x"], "pieces": {}, "sources": {}, "tally": {}}',
        '{"file": "x", "pieces": [], "sources": {}, "tally": {}}',
        '{"file": "x", "pieces": {"x": 5}, "sources": {}, "tally": {}}',
        '{"file": "x", "pieces": {}, "sources": 3, "tally": {}}',
        '{"file": "x", "pieces": {}, "sources": {}, "tally": {"a": "b"}}',
    ],
)
def test_a_journal_with_other_types_starts_over(served, place, expected, line):
    with pytest.raises(Stop):
        get(served, place, Watch(converting=stopping_after(40)))
    with open(hidden_folder(place) / "download" / "journal.jsonl", "a") as journal:
        journal.write(line + "\n")
    get(served, place)
    assert shard_bytes(place) == shard_bytes(expected.destination)


def stop_after_a_file(served, place):
    """Stop when a file has been converted. Return the journal."""
    journal = hidden_folder(place) / "download" / "journal.jsonl"

    def report(done, total):
        if journal.exists() and journal.read_text().count("\n") > 2:
            raise Stop

    with pytest.raises(Stop):
        get(served, place, Watch(converting=report))
    return journal


def test_a_journal_that_counts_on_what_was_not_converted_is_an_error(served, place):
    journal = stop_after_a_file(served, place)
    head, first, *_ = journal.read_text().splitlines()
    journal.write_text(f"{head}\n{json.dumps(json.loads(first) | {'pieces': {}})}\n")
    with pytest.raises(StorageError, match=rf"is damaged; remove {hidden_folder(place)} and run the command again"):
        get(served, place)


def test_a_shard_that_is_gone_is_not_taken_for_one_of_zeros(served, place):
    stop_after_a_file(served, place)
    for shard in hidden_folder(place).glob("*.safetensors"):
        shard.unlink()
    with pytest.raises(StorageError, match=rf"is gone; remove {hidden_folder(place)} and run the command again"):
        get(served, place)


def test_a_commit_that_is_gone_gives_way_to_the_newest(served, place, expected):
    journal = stop_after_a_file(served, place)
    journal.write_text(journal.read_text().replace("0123456789abcdef" * 2, "fedcba9876543210" * 2))
    remote = look(REPO, place, endpoint=served.address, settings=QUICK)
    assert remote.there == 0
    said = []
    convert_remote(remote, Watch(say=said.append), settings=QUICK)
    assert said == ["what was downloaded before is from another version or with other options, starting over"]
    assert shard_bytes(place) == shard_bytes(expected.destination)


@pytest.mark.parametrize("options", [{"dense": "bf16"}, {"keep": "kept"}])
def test_what_other_options_throw_away_does_not_count_as_here(served, place, tmp_path, options):
    stop_after_a_file(served, place)
    options = {name: tmp_path / "kept" if name == "keep" else value for name, value in options.items()}
    again = look(REPO, place, endpoint=served.address, settings=QUICK, **options)
    assert again.there == 0
    assert look(REPO, place, endpoint=served.address, settings=QUICK).there > 0


def test_a_finished_folder_of_another_model_is_not_given_this_name(served, source, place, tmp_path):
    bf16 = convert(source, tmp_path / "local", dense="bf16")
    place.parent.mkdir()
    bf16.destination.rename(hidden_folder(place))
    get(served, place)
    assert ModelFolder.open(place).manifest["quantization"]["dense"] == "q8"
    assert ModelFolder.open(place).manifest["source"]["folder"] == REPO


def test_weights_that_the_index_does_not_name_are_left_on_the_hub(served, place, expected):
    served.files["consolidated.safetensors"] = served.files["model-00001-of-00004.safetensors"]
    served.files["junk.safetensors"] = Stored(b"", True)
    get(served, place)
    assert shard_bytes(place) == shard_bytes(expected.destination)


def test_an_empty_file_of_weights_is_named_at_once(served, place):
    del served.files["model.safetensors.index.json"]
    served.files["empty.safetensors"] = Stored(b"", True)
    with pytest.raises(CheckpointError, match=r"empty\.safetensors: truncated at 0 bytes"):
        look(REPO, place, endpoint=served.address, settings=QUICK)


def test_a_folder_is_not_converted_over_an_unfinished_download(served, source, place):
    with pytest.raises(Stop):
        get(served, place, Watch(converting=stopping_after(5)))
    before = sorted(hidden_folder(place).rglob("*"))
    said = rf"its download is unfinished; go on with `(gptoss-mac convert 20b --out {place})`, discard it by removing"
    with pytest.raises(StorageError, match=said):
        convert(source, place)
    assert sorted(hidden_folder(place).rglob("*")) == before


def test_a_header_that_was_not_the_files_is_an_error(served, place):
    remote = look(REPO, place, endpoint=served.address, settings=QUICK)
    tensors = remote.headers[remote.weights[0].name]
    names = [name for name in tensors if name.endswith("norm.weight")][:2]
    tensors[names[0]], tensors[names[1]] = tensors[names[1]], tensors[names[0]]
    with pytest.raises(CheckpointError, match="has another header than the Hub has shown"):
        convert_remote(remote, Watch(), settings=QUICK)
    assert not place.exists()


def test_too_little_room_is_said_before_the_first_byte(served, place, monkeypatch):
    remote = look(REPO, place, endpoint=served.address, settings=QUICK)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": remote.most - 1})())
    before = len(served.requests)
    with pytest.raises(StorageError, match=r"needs 3\.9 MB, 3\.9 MB are free"):
        convert_remote(remote, Watch(), settings=QUICK)
    assert len(served.requests) == before


def test_a_checkpoint_that_cannot_be_converted_is_refused_before_its_weights(served, source, place):
    config = served.files["config.json"].data.replace(b'"num_local_experts": 8', b'"num_local_experts": 9')
    served.files["config.json"] = Stored(config, False)
    with pytest.raises(CheckpointError, match=rf"^{REPO}/model-.*config\.json needs"):
        look(REPO, place, endpoint=served.address, settings=QUICK)
    assert not place.parent.exists()


@pytest.mark.parametrize("half", [False, True], ids=["before a call", "in the middle of a write"])
@pytest.mark.parametrize("step", [pytest.param(3, marks=pytest.mark.slow), 197])
def test_a_kill_at_any_change_of_the_disk_leaves_no_half_model(served, expected, place, step, half):
    place.parent.mkdir()
    whole = shard_bytes(expected.destination)
    with Downloads(served.address, place, 64 << 10, "tests.convert.kills") as downloads:
        call, code = 1, -signal.SIGKILL
        while code:
            downloads.start(call, half)
            code = downloads.ended()
            assert code in (0, -signal.SIGKILL)
            if place.exists():
                assert shard_bytes(place) == whole
                ModelFolder.open(place).verify()
            downloads.start()
            if not place.exists() or code == 0:
                assert downloads.ended() in ((0,) if code else (1,)), "a model that is there is an error"
            else:
                downloads.ended()
            assert shard_bytes(place) == whole
            assert os.listdir(place.parent) == ["20b"], "nothing is left over"
            for path in place.iterdir():
                path.unlink()
            place.rmdir()
            call += step
    assert call > 150


# Each kill costs what was on its way, which on a busy machine is a large share of a small model.
@pytest.mark.parametrize(
    ("kills", "layers", "share"), [pytest.param(30, 24, 0.05, marks=pytest.mark.slow), (4, 4, 0.25)]
)
def test_kills_from_outside_cost_little(hub, tmp_path, place, kills, layers, share):  # noqa: F811
    sizes = SMALL | {"num_hidden_layers": layers, "hidden_size": 512, "intermediate_size": 512, "num_local_experts": 16}
    source = write_checkpoint(tmp_path / "hf", sizes, "hf", SHARDS)
    hub.files = files_of(source)
    hub.rate = 16e6
    total = sum(len(file.data) for name, file in hub.files.items() if name.endswith(".safetensors"))
    place.parent.mkdir()
    rng = random.Random(5)
    with Downloads(hub.address, place, 1 << 20, "tests.convert.kills") as downloads:
        for mark in sorted(rng.randrange(total) for _ in range(kills)):
            process = downloads.start()
            while weights_sent(hub, 1 << 20) < mark:
                time.sleep(0.002)
            os.kill(process, signal.SIGKILL)
            assert downloads.ended() == -signal.SIGKILL
        downloads.start()
        assert downloads.ended() == 0
    twice = weights_sent(hub, 1 << 20) / total - 1
    print(f"{kills} kills, {twice:.2%} of {total / 1e6:.0f} MB of weights sent twice")
    assert twice < share
    assert shard_bytes(place) == shard_bytes(convert(source, tmp_path / "local").destination)
