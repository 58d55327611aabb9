"""The cache of compiled files keeps what is used and complete, and nothing else."""

import os

import pytest

from metal_kernels import build_cache

KIND = "things"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The cache's folder of a user of whom nothing is known."""
    monkeypatch.setattr(build_cache, "folder", lambda kind: tmp_path / "cache" / kind)
    return build_cache.folder(KIND)


def age(path, seconds):
    then = os.stat(path).st_mtime - seconds
    os.utime(path, (then, then))


def test_the_user_says_where_the_cache_is_on_linux(monkeypatch, tmp_path):
    monkeypatch.setattr(build_cache.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build_cache.folder(KIND) == tmp_path / "gptoss-mac" / KIND


def test_abandoned_and_stale_files_are_removed(folder):
    folder.mkdir(parents=True)
    (folder / "building-x").mkdir()
    (folder / "building-y").mkdir()
    (folder / "old.so").touch()
    (folder / "new.so").touch()
    age(folder / "building-x", build_cache.ABANDONED + 60)
    age(folder / "old.so", build_cache.STALE + 60)
    with build_cache.workshop(KIND) as scratch:
        assert sorted(folder.iterdir()) == sorted([folder / "building-y", folder / "new.so", scratch])
    assert sorted(path.name for path in folder.iterdir()) == ["building-y", "new.so"]


def test_a_used_file_does_not_become_stale(folder):
    path = build_cache.place(KIND, ".so", "part")
    assert not build_cache.use(path)
    path.parent.mkdir(parents=True)
    path.touch()
    age(path, build_cache.STALE + 60)
    assert build_cache.use(path)
    with build_cache.workshop(KIND):
        assert path.is_file()


def test_a_name_depends_on_every_part_and_on_their_borders(folder):
    parts = [("ab", "c"), ("a", "bc"), ("abc",), ("ab", "c", "")]
    assert len({build_cache.place(KIND, ".so", *each) for each in parts}) == len(parts)


def test_a_digest_depends_on_the_name_and_bytes_of_every_source(tmp_path):
    (tmp_path / "deep").mkdir()
    seen = []
    for name, text in [("a.cpp", "1"), ("deep/b.h", "1"), ("deep/b.h", "2"), ("deep/c.inc", "2")]:
        (tmp_path / name).write_text(text)
        seen.append(build_cache.digest(tmp_path))
    (tmp_path / "deep/c.inc").rename(tmp_path / "c.inc")
    seen.append(build_cache.digest(tmp_path))
    (tmp_path / "code.cpython-311.pyc").write_text("no source")
    assert len(set(seen)) == len(seen)
    assert build_cache.digest(tmp_path) == seen[-1]


def test_a_failed_build_leaves_nothing(folder):
    def build():
        with build_cache.workshop(KIND) as scratch:
            (scratch / "half.so").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        build()
    assert list(folder.iterdir()) == []
