"""What was said is kept whole, by many processes at once, whatever ends them, and nothing that fails hides it."""

import json
import os
import re
import resource
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from gptoss_mlx import history as module
from gptoss_mlx.errors import HistoryError, SessionError
from gptoss_mlx.history import History, Kept
from tests.reports.history_kills import hammer, killed_while_saving

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def history(home):
    with closing(History()) as opened:
        yield opened


def message(role, content, channel=None):
    return {"role": role, "content": content, "name": None, "recipient": None, "channel": channel}


def kept(*contents, **fields):
    messages = [message("user" if n % 2 == 0 else "assistant", text) for n, text in enumerate(contents)]
    settings = {"reasoning": "high", "instructions": None, "temperature": 0.5, "date": "2026-01-02"}
    return Kept(**({"model": "/models/m", "model_hash": "h", "messages": messages} | settings | fields))


def test_what_is_saved_is_read_with_its_settings_and_found_by_name_and_number(history):
    saved = history.save(kept("hi", "ho", name="demo"))
    assert history.read(history.find("demo")) == saved
    assert history.find(str(saved.id)) == saved.id
    assert history.find("other") is None
    assert saved.began == saved.changed != ""
    with pytest.raises(SessionError, match="logs"):
        history.read(99)


def test_a_save_replaces_what_differs_and_search_finds_only_what_there_is(history):
    saved = history.save(kept("apples", "pears", "plums"))
    saved = history.save(kept("apples", "quinces", id=saved.id))
    assert [one["content"] for one in history.read(saved.id).messages] == ["apples", "quinces"]
    assert [len(history.search(word, 9)) for word in ("apples", "pears", "plums", "quin")] == [1, 0, 0, 1]


def test_search_takes_any_characters_and_does_not_look_into_thoughts(history):
    thought = message("assistant", "secret plan", "analysis")
    history.save(kept("Größe NEAR 'x' \"y\"", messages=[message("user", 'Größe "y" AND'), thought]))
    assert len(history.search("grosse", 9)) == 0
    for found in ("größe", "GROSSE"[:3], 'y"', "AND", "gro y"):
        assert len(history.search(found, 9)) == 1, found
    for absent in ("secret", "", "  ", "nothing", "größe missing"):
        assert history.search(absent, 9) == []


def test_lists_have_the_latest_first(history, monkeypatch):
    for number in range(3):
        history.save(kept(f"number {number}", name=f"n{number}"))
    assert [one.text for one in history.listed(2)] == ["number 2", "number 1"]
    assert history.names() == ["n2", "n1", "n0"]
    assert history.latest("chat") == 3
    assert history.latest("run") is None
    history.remove(3)
    assert history.names() == ["n1", "n0"]
    assert history.search("number", 9)[0].count == 1


def test_only_the_user_can_read_it(home, history):
    history.save(kept("hi"))
    assert stat.S_IMODE((home / "said").stat().st_mode) == 0o700
    files = list((home / "said").iterdir())
    assert len(files) >= 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_one_process_at_a_time_goes_on_with_a_conversation(home, history):
    saved = history.save(kept("hi"))
    assert history.hold(saved.id)
    code = f"from gptoss_mlx.history import History; h = History(); print(h.hold({saved.id}), h.hold({saved.id + 1}))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout == "False True\n"
    )
    history.close()
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout == "True True\n"
    )


def test_what_another_process_removed_is_saved_as_new(history):
    saved = history.save(kept("hi"))
    with closing(History()) as other:
        other.remove(saved.id)
    again = history.save(kept("hi", "ho", id=saved.id))
    assert again.id != saved.id
    assert len(history.read(again.id).messages) == 2


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4000])
def test_a_damaged_database_is_one_line_and_stays_as_it_is(home, content):
    (home / "said").mkdir()
    path = home / "said" / "history.db"
    path.write_bytes(content)
    with pytest.raises(HistoryError, match="move the file away") as raised:
        History()
    assert "\n" not in str(raised.value)
    assert path.read_bytes() == content


def test_a_newer_database_is_refused_and_stays_as_it_is(home, history):
    history.close()
    path = home / "said" / "history.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 2")
    with pytest.raises(HistoryError, match="newer version"):
        History()


def test_a_full_disk_leaves_what_was_saved_and_the_next_save_works(home, history):
    saved = history.save(kept("hi"))
    files = {path.name for path in (home / "said").iterdir()}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (home / "said" / "history.db-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10_000, before[1]))
    try:
        with pytest.raises(HistoryError, match="cannot be written"):
            history.save(kept("hi", "x" * 1_000_000, id=saved.id))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert {path.name for path in (home / "said").iterdir()} == files
    assert len(history.read(saved.id).messages) == 1
    assert len(history.read(history.save(kept("hi", "ho", id=saved.id)).id).messages) == 2


def test_old_sessions_are_imported_once_with_their_text_and_damaged_ones_are_said(home):
    folder = home / "sessions" / "old"
    folder.mkdir(parents=True)
    session = {"name": "old", "model": "20b", "model_hash": "h", "reasoning": "low", "instructions": "Be brief."}
    said = [message("user", "hello") | {"content_type": None, "constrained": False, "ids": [1, 2]}]
    raw = session | {"date": "2025-06-28", "messages": said, "saved": "2025-06-28T10:00:00+00:00", "version": 1}
    (folder / "session.json").write_text(json.dumps(raw))
    for name, text in (("bad", "{"), ("worse", json.dumps(raw | {"messages": [{"role": "system", "content": "x"}]}))):
        (home / "sessions" / name).mkdir()
        (home / "sessions" / name / "session.json").write_text(text)
    with closing(History()) as first:
        assert len(first.notices) == 2
        assert all("left where it is" in notice for notice in first.notices)
        found = first.read(first.find("old"))
        assert (found.instructions, found.reasoning, found.changed) == ("Be brief.", "low", "2025-06-28T10:00:00+00:00")
        assert [(one["content"], one["ids"]) for one in found.messages] == [("hello", None)]
        first.remove(found.id)
    with closing(History()) as second:
        assert second.notices == []
        assert second.names() == []


def test_four_processes_save_at_once_and_each_turn_is_there(home):
    assert hammer(home, processes=4, turns=10) == []


def test_a_kill_while_saving_loses_no_turn_and_damages_nothing(home):
    assert killed_while_saving(home, kills=3) == []


def test_the_schema_is_the_one_that_the_version_names():
    """A change of it needs a new version, and a way from the old one."""
    names = re.findall(r"CREATE (?:VIRTUAL )?(?:TABLE|TRIGGER) (\w+)", module.SCHEMA)
    assert (module.VERSION, names) == (
        1,
        ["conversation", "message", "imported", "words", "message_added", "message_removed"],
    )


def test_it_is_read_without_anything_heavy(home, history):
    history.save(kept("hi"))
    code = (
        "import sys\nfrom gptoss_mlx.cli import main\nsys.argv = ['gptoss-mac', 'logs']\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "print(*sorted({'mlx', 'numpy', 'tiktoken', 'prompt_toolkit'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=os.environ)
    lines = done.stdout.splitlines()
    assert lines[0].endswith("hi"), done
    assert lines[1:] == [""]
