"""A file replaced whole: nothing beside it is touched, and nothing is left behind. Locks. The room that files take."""

import errno
import fcntl
import os

import pytest

from gptoss_mlx.files import lock, nbytes_on_disk, opened_locked, replaced_whole


def test_the_file_is_replaced_private_and_alone(tmp_path):
    path = tmp_path / "it"
    path.write_text("old")
    with replaced_whole(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o077 == 0
    assert list(tmp_path.iterdir()) == [path]


def test_after_an_error_the_old_one_stands_and_nothing_is_left(tmp_path):
    path = tmp_path / "it"
    path.write_text("old")
    with pytest.raises(TypeError), replaced_whole(path) as partial:
        partial.write_bytes("no bytes")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_laid_in_its_way_is_not_written_through(tmp_path):
    """A name that can be guessed can be taken: a link under it would lead to another's file."""
    path, target = tmp_path / "it", tmp_path / "target"
    target.write_text("mine")
    path.symlink_to(target)
    (tmp_path / f".it.{os.getpid()}.partial").symlink_to(target)
    with replaced_whole(path) as partial:
        partial.write_text("new")
    assert target.read_text() == "mine"
    assert not path.is_symlink()
    assert path.read_text() == "new"


def test_the_room_of_files_counts_each_once_holes_not_and_those_that_vanish_not(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "it").write_bytes(b"x" * 8192)
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(1 << 30)
    assert nbytes_on_disk(tmp_path, tmp_path / "in", tmp_path / "nowhere") == 8192
    walk = list(os.walk(tmp_path))
    (tmp_path / "in" / "it").unlink()
    monkeypatch.setattr(os, "walk", lambda folder: walk)
    assert nbytes_on_disk(tmp_path) == 0


def test_one_at_a_time_has_the_lock_of_a_file(tmp_path):
    path = tmp_path / "it"
    first = opened_locked(path, os.O_RDWR | os.O_CREAT)
    assert first is not None
    with pytest.raises(BlockingIOError):
        opened_locked(path, os.O_RDWR)
    os.close(first)
    second = opened_locked(path, os.O_RDWR)
    assert second is not None
    os.close(second)


def test_a_file_that_its_owner_has_moved_away_is_not_taken_for_the_one_at_its_path(tmp_path, monkeypatch):
    path = tmp_path / "it"
    path.touch()
    real = fcntl.flock

    def moved(descriptor, operation):
        real(descriptor, operation)
        path.rename(tmp_path / "elsewhere")

    monkeypatch.setattr(fcntl, "flock", moved)
    before = len(os.listdir("/dev/fd"))
    assert opened_locked(path, os.O_RDWR) is None
    assert len(os.listdir("/dev/fd")) == before


def test_a_volume_without_locks_locks_nothing_and_other_errors_are_raised(tmp_path, monkeypatch):
    def refused(number):
        def flock(descriptor, operation):
            raise OSError(number, os.strerror(number))

        return flock

    monkeypatch.setattr(fcntl, "flock", refused(errno.ENOLCK))
    with open(tmp_path / "it", "wb") as file:
        lock(file.fileno())
        monkeypatch.setattr(fcntl, "flock", refused(errno.EIO))
        with pytest.raises(OSError, match="Input/output"):
            lock(file.fileno(), wait=True)
