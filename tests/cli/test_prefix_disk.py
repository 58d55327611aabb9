"""What one command has read the next one, and another kind of command, does not read again."""

import json
import stat

import pytest

from tests.support.checkpoints import SMALL
from tests.support.cli import run_cli
from tests.support.models import endless_model

LONG = "Be brief. " * 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return endless_model(tmp_path_factory.mktemp("disk"), SMALL, seed=31)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def run(folder):
    """Answer a prompt after long instructions, and return how many tokens had been read before, and what was said."""

    def call(*options, prompt="hi"):
        given = "--model", folder, "--system", LONG, "--max-tokens", 4, "--temperature", 0, "--json", *options
        code, out, err = run_cli("run", prompt, *given)
        assert code in (0, 8, 13)  # 8: nothing but a thought, 13: cut off
        return json.loads(out)["usage"]["cached_tokens"], {**json.loads(out), "usage": None}, err

    return call


def test_runs_and_batches_share_what_they_have_read(run, folder, home, tmp_path):
    cold, said, _ = run()
    warm, again, _ = run()
    assert cold == 0
    assert warm > 100
    assert said == again
    (tmp_path / "in.jsonl").write_text('{"prompt": "hi"}\n{"prompt": "ho"}\n')
    options = "--model", folder, "--system", LONG, "--max-tokens", 4
    assert run_cli("batch", tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl", *options)[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {line["usage"]["cached_tokens"] for line in lines} == {warm}
    files = list((home / "snapshots").iterdir())
    assert len(files) >= 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_what_a_batch_has_read_a_run_does_not_read_again(run, folder, tmp_path):
    (tmp_path / "in.jsonl").write_text('{"prompt": "hi"}\n')
    options = "--model", folder, "--system", LONG, "--max-tokens", 4
    assert run_cli("batch", tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl", *options)[0] == 0
    assert run()[0] > 100


def test_off_keeps_nothing_and_a_small_budget_holds(run, home):
    assert run("--prefix-disk", "off")[0] == run("--prefix-disk", "off")[0] == 0
    assert not (home / "snapshots").exists()
    for number in range(3):
        run("--prefix-disk", "3MB", prompt="hi" * 100 * number + "hi")
        assert sum(path.stat().st_size for path in (home / "snapshots").iterdir()) <= 3_000_000
    assert run("--prefix-disk", "3MB")[0] > 100


def test_a_folder_that_cannot_be_written_costs_one_line(run, home):
    (home / "snapshots").write_text("in the way")
    cached, said, err = run()
    assert cached == 0
    assert err.count("\n") <= 2, "beside the error that nothing was answered"
    assert "nothing else is lost" in err
    (home / "snapshots").unlink()
    _, again, err = run()
    assert said == again
    assert "nothing else is lost" not in err


@pytest.mark.parametrize("given", ["", "0", "-1", "much", "4XB", "nan", "9" * 400])
@pytest.mark.parametrize("command", [("run", "hi"), ("chat",), ("batch", "-", "--out", "x")])
def test_a_budget_of_nonsense_is_refused_in_one_line(folder, command, given):
    code, out, err = run_cli(*command, "--model", folder, "--prefix-disk", given)
    assert (code, out) == (2, "")
    assert "prefix-disk" in err
    assert err.count("\n") == 1
