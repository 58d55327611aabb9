"""A folder keeps to its budget whoever writes, gives back only what was written, and is whole after a kill."""

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gptoss_mlx import bounded_folder
from gptoss_mlx.bounded_folder import DIGEST_BYTES, LOCK, PARTIAL, BoundedFolder

ROOT = Path(__file__).parent.parent
SIZE = 1000 + DIGEST_BYTES

WRITER = """
import itertools, sys
from pathlib import Path
from gptoss_mlx.bounded_folder import BoundedFolder
folder = BoundedFolder(Path(sys.argv[1]), int(sys.argv[2]))
print("ready", flush=True)
for number in itertools.count():
    name = f"{sys.argv[3]}-{number % 40}"
    folder.write(name, [memoryview(name.encode() * 20000)])
    held = folder.read(name)
    assert held is None or held == name.encode() * 20000
"""


@pytest.fixture
def folder(tmp_path):
    return BoundedFolder(tmp_path / "kept", 4 * SIZE)


def write(folder, name, count=1000):
    folder.write(name, [memoryview(b"x" * (count // 2)), memoryview(b"y" * (count - count // 2))])


def held(folder):
    return sum(path.stat().st_size for path in folder.path.iterdir())


def test_what_is_written_is_read(folder):
    assert folder.names() == set()
    assert folder.read("a") is None
    write(folder, "a")
    assert folder.names() == {"a"}
    assert folder.read("a") == b"x" * 500 + b"y" * 500
    folder.write("a", [memoryview(b"new")])
    assert folder.read("a") == b"new"


def test_only_the_user_can_read_it(folder):
    before = os.umask(0)
    try:
        write(folder, "a")
    finally:
        os.umask(before)
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.path.iterdir()} == {0o600}


def test_the_budget_holds_and_what_was_used_longest_ago_goes_first(folder):
    for name in "abcd":
        write(folder, name)
    folder.touch(["b", "gone", "a"])
    write(folder, "e")
    assert folder.names() == {"a", "b", "d", "e"}
    write(folder, "f", 1900)
    assert folder.names() == {"a", "e", "f"}, "two had to go"
    write(folder, "too large", 4 * SIZE)
    assert folder.names() == {"a", "e", "f"}
    assert held(folder) <= folder.budget


@pytest.mark.parametrize("at", [0, 1, 499, 999, 1000, SIZE - 1])
def test_a_damaged_file_is_no_file_and_is_removed(folder, at):
    write(folder, "a")
    data = bytearray((folder.path / "a").read_bytes())
    data[at] ^= 1
    (folder.path / "a").write_bytes(data)
    assert folder.read("a") is None
    assert folder.names() == set()


@pytest.mark.parametrize("length", [0, 1, DIGEST_BYTES - 1, DIGEST_BYTES, 500, SIZE - 1])
def test_a_truncated_file_is_no_file(folder, length):
    write(folder, "a")
    os.truncate(folder.path / "a", length)
    assert folder.read("a") is None


def test_a_file_under_another_name_or_no_file_at_all_is_none(folder):
    write(folder, "a")
    (folder.path / "a").rename(folder.path / "b")
    (folder.path / "c").mkdir()
    assert folder.read("b") is None
    assert folder.read("c") is None


def test_a_write_that_fails_leaves_nothing_of_itself(folder, monkeypatch):
    write(folder, "a")

    def full(descriptor, data):
        os.pwrite(descriptor, data[:10], 0)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bounded_folder.os, "write", full)
    for name in ("a", "b"):
        with pytest.raises(OSError, match="No space left"):
            write(folder, name)
    assert {path.name for path in folder.path.iterdir()} == {"a", LOCK}
    assert folder.read("a") == b"x" * 500 + b"y" * 500


def test_who_holds_the_lock_for_ever_is_not_waited_for_for_ever(folder, monkeypatch):
    monkeypatch.setattr(bounded_folder, "PATIENCE", 0.05)
    write(folder, "a")
    with folder._locked(), pytest.raises(BlockingIOError):
        write(folder, "b")
    write(folder, "b")
    assert folder.names() == {"a", "b"}


def test_writers_that_are_killed_leave_the_budget_kept_and_no_litter(folder):
    """Three processes write at once into a folder for 12 of their 120 files. One after the other is killed."""
    folder = BoundedFolder(folder.path, 12 * 60000)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, folder.path, str(folder.budget), name],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        for name in "abc"
    ]
    try:
        for writer in writers:
            assert writer.stdout.readline() == b"ready\n"
        most = 0
        for writer in writers:
            for _ in range(20):
                time.sleep(0.01)
                sizes = [_size(folder.path / name) for name in folder.names()]
                most = max(most, sum(sizes))
            assert writer.poll() is None, writer.stderr.read()
            writer.kill()
            assert writer.wait() == -signal.SIGKILL
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()
    assert folder.budget / 2 < most, "they never filled it"
    assert all(folder.read(name) is not None for name in folder.names())
    write(folder, "last")
    assert not (folder.path / PARTIAL).exists()
    assert held(folder) <= folder.budget


def _size(path):
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
