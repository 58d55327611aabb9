"""What was typed is recalled by the next chat, whichever chats typed it."""

import subprocess
import sys
from pathlib import Path

import pytest

from gptoss_mlx.typed_lines import MOST_BYTES, add_typed, read_typed

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path))
    return tmp_path


def test_the_latest_comes_first_lines_ends_and_all(home):
    for text in ("one", "two\nlines", 'a "quoted" é', '"only quotes"'):
        add_typed(text)
    assert read_typed() == ['"only quotes"', 'a "quoted" é', "two\nlines", "one"]
    assert (home / "history").stat().st_mode & 0o077 == 0


def test_lines_from_before_the_file_had_json_are_read(home):
    (home / "history").write_text("What is 2 + 3?\n/help\n17\n")
    add_typed("new")
    assert read_typed() == ["new", "17", "/help", "What is 2 + 3?"]


def test_chats_that_type_at_once_lose_nothing(home):
    code = (
        "import sys\nfrom gptoss_mlx.typed_lines import add_typed\nfor n in range(200): add_typed(f'{sys.argv[1]} {n}')"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, name], cwd=ROOT) for name in "abcd"]
    assert [process.wait() for process in running] == [0] * 4
    assert sorted(read_typed()) == sorted(f"{name} {n}" for name in "abcd" for n in range(200))


def test_no_file_a_damaged_one_and_a_full_disk_cost_nothing(home):
    assert read_typed() == []
    (home / "history").write_bytes(b"\xff\xfe\nok\n" + b"x" * MOST_BYTES)
    assert read_typed() == []
    (home / "history").unlink()
    (home / "history").mkdir()
    add_typed("lost")
    assert read_typed() == []
