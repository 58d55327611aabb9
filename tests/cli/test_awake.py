"""A Mac stays awake during a long run, and neither another system nor a missing caffeinate is in the way."""

import os
import time
from types import SimpleNamespace

import pytest

from gptoss_mlx.cli.awake import awake
from tests.batch.conftest import SMALLER
from tests.support.checkpoints import write_checkpoint
from tests.support.cli import run_cli

FAKE = """#!/bin/sh
echo "$$ $@" >> "$(dirname "$0")/calls"
exec sleep 60
"""


@pytest.fixture
def caffeinate(tmp_path, monkeypatch):
    """A caffeinate that notes its process and arguments in ``calls``, and runs until it is ended. On a Mac."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "caffeinate").write_text(FAKE)
    (folder / "caffeinate").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    on(monkeypatch, "darwin")
    return folder


def on(monkeypatch, platform):
    """Let only the module under test see another platform, because others would look for that one's files."""
    monkeypatch.setattr("gptoss_mlx.cli.awake.sys", SimpleNamespace(platform=platform))


def calls(folder, wanted):
    """Return (process, arguments) of each call, once there are as many as wanted."""
    end = time.monotonic() + 20
    found = []
    while len(found) < wanted and time.monotonic() < end:
        if (folder / "calls").exists():
            found = [line.split(" ", 1) for line in (folder / "calls").read_text().splitlines()]
    assert len(found) == wanted
    return [(int(process), arguments) for process, arguments in found]


def runs(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_caffeinate_watches_this_process_until_the_block_ends(caffeinate):
    with awake():
        ((process, arguments),) = calls(caffeinate, 1)
        assert arguments == f"-i -w {os.getpid()}"
        assert runs(process)
        assert os.getsid(process) != os.getsid(0), "a Ctrl-C in the terminal does not reach it"
    assert not runs(process)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ZeroDivisionError])
def test_caffeinate_ends_with_an_error_too(caffeinate, error):
    def work():
        with awake():
            calls(caffeinate, 1)
            raise error

    with pytest.raises(error):
        work()
    ((process, _),) = calls(caffeinate, 1)
    assert not runs(process)


def test_nothing_is_started_when_sleep_is_allowed_or_elsewhere(caffeinate, monkeypatch):
    with awake(allow_sleep=True):
        pass
    on(monkeypatch, "linux")
    with awake():
        pass
    assert not (caffeinate / "calls").exists()


@pytest.mark.parametrize("text", [None, "#!/bin/sh\nexit 1\n", "no program"])
def test_an_absent_or_failing_caffeinate_is_no_error(caffeinate, monkeypatch, text):
    if text is None:
        (caffeinate / "caffeinate").unlink()
        monkeypatch.setenv("PATH", str(caffeinate))
    else:
        (caffeinate / "caffeinate").write_text(text)
    done = False
    with awake():
        done = True
    assert done


@pytest.mark.parametrize("command", ["convert", "export", "batch"])
def test_long_commands_keep_awake_unless_told_otherwise(tmp_path, monkeypatch, command):
    started = []
    on(monkeypatch, "darwin")
    monkeypatch.setattr("gptoss_mlx.cli.awake._caffeinate", lambda: started.append(command))
    model = tmp_path / "model"
    source = write_checkpoint(tmp_path / "hf", SMALLER)
    assert run_cli("convert", source, "--out", model, "--allow-sleep")[0] == 0
    (tmp_path / "in.txt").write_text("hi\n")
    words = {
        "convert": ["convert", source, "--out"],
        "export": ["convert", "--to", "hf", model, "--out"],
        "batch": ["batch", tmp_path / "in.txt", "--model", model, "--max-tokens", "1", "--out"],
    }[command]
    assert run_cli(*words, tmp_path / "first", "--allow-sleep")[0] in (0, 10)
    assert started == []
    assert run_cli(*words, tmp_path / "second")[0] in (0, 10)
    assert started == [command]
