"""An unfinished file counts only bytes that are there, and is taken up only if it is the same file's."""

import errno
import os

import pytest

from gptoss_mlx.errors import StorageError
from gptoss_mlx.hub.part import tidy, unfinished

DATA = bytes(range(256)) * 4


SIZE = len(DATA)


def opened(folder, size=SIZE, digest="d" * 64, piece=300):
    return unfinished(folder / "w", size, digest, piece)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write(part, index, count):
    begin, _ = part.span(index)
    part.write(index, DATA[begin : begin + count])


def test_it_is_taken_up_where_it_was(tmp_path):
    with opened(tmp_path) as part:
        part.name_content('"a"')
        write(part, 0, 300)
        write(part, 1, 10)
        write(part, 3, 124)
    with opened(tmp_path) as part:
        assert part.counts == [300, 10, 0, 124]
        assert (part.etag, part.nbytes, part.contiguous()) == ('"a"', 434, 310)
        assert part.span(1) == (310, 600)
        assert part.span(3) == (1024, 1024)
        assert part.read(0, 310) == DATA[:310]
        write(part, 1, 290)
        write(part, 2, 300)
        assert part.contiguous() == len(DATA)
        part.publish()
    assert names(tmp_path) == ["w"]
    assert (tmp_path / "w").read_bytes() == DATA


@pytest.mark.parametrize("other", [{"size": 1023}, {"digest": "e" * 64}, {"piece": 301}])
def test_another_files_bytes_are_not_taken_up(tmp_path, other):
    with opened(tmp_path) as part:
        write(part, 0, 300)
    with opened(tmp_path, **other) as part:
        assert (part.nbytes, part.etag) == (0, None)
        assert os.path.getsize(part.path) == part.size


@pytest.mark.parametrize("place", [0, 5, 500, 1023, 1024, 1031, 1055])
@pytest.mark.parametrize("change", ["cut", "byte", "longer"])
def test_a_damaged_state_counts_nothing(tmp_path, place, change):
    with opened(tmp_path) as part:
        write(part, 0, 300)
        write(part, 1, 1)
        state = part.state_path
    data = state.read_bytes()
    damaged = {
        "cut": data[:place],
        "byte": data[:place] + bytes([data[place] ^ 0x80]) + data[place + 1 :],
        "longer": data + b"x",
    }
    state.write_bytes(damaged[change])
    with opened(tmp_path) as part:
        assert part.nbytes == 0


def test_an_unfinished_file_that_was_cut_is_not_taken_up(tmp_path):
    with opened(tmp_path) as part:
        write(part, 0, 300)
    os.truncate(part.path, 200)
    with opened(tmp_path) as part:
        assert part.nbytes == 0


def test_one_without_bytes_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), opened(tmp_path):
        raise KeyError
    assert names(tmp_path) == []


def test_a_state_that_a_kill_left_is_removed(tmp_path):
    (tmp_path / "w").write_bytes(b"")
    (tmp_path / "w.part.state").write_bytes(b"")
    tidy(tmp_path / "w")
    assert names(tmp_path) == ["w"]


def test_only_one_process_has_it(tmp_path):
    with opened(tmp_path) as part:
        write(part, 0, 3)
        with pytest.raises(StorageError, match="another process is downloading it"), opened(tmp_path):
            pass
        assert part.nbytes == 3
    assert names(tmp_path) == ["w.part", "w.part.state"]


def test_links_are_not_followed(tmp_path):
    (tmp_path / "precious").write_bytes(b"kept")
    (tmp_path / "w.part").symlink_to("precious")
    with pytest.raises(StorageError), opened(tmp_path):
        pass
    assert (tmp_path / "precious").read_bytes() == b"kept"


@pytest.mark.parametrize("etag", ['"' + "x" * 2000 + '"', '"' + "é" * 300 + '"'])
def test_a_long_name_of_content_is_left_out(tmp_path, etag):
    with opened(tmp_path) as part:
        write(part, 0, 3)
        part.name_content(etag)
    with opened(tmp_path) as part:
        assert (part.etag, part.nbytes) == (None, 3)


def test_a_piece_takes_no_more_than_it_misses(tmp_path):
    with opened(tmp_path) as part:
        write(part, 3, 24)
        with pytest.raises(ValueError, match="piece 3: 101 bytes, 100 are missing"):
            part.write(3, bytes(101))
        assert part.counts == [0, 0, 0, 24]


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, monkeypatch):
    pwrite = os.pwrite

    def full(descriptor, data, offset):
        if offset >= 300 and len(data) > 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(descriptor, data, offset)

    with opened(tmp_path) as part:
        write(part, 0, 300)
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            with pytest.raises(StorageError, match=r"No space left.*free some space"):
                write(part, 1, 100)
    with opened(tmp_path) as part:
        assert part.counts == [300, 0, 0, 0]


def test_a_name_that_cannot_be_given_loses_nothing(tmp_path, monkeypatch):
    def refuse(source, target):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(target))

    with opened(tmp_path) as part:
        for index in range(4):
            write(part, index, 300)
        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", refuse)
            with pytest.raises(StorageError, match=r"w: cannot be written \(Operation not permitted\)"):
                part.publish()
    with opened(tmp_path) as part:
        assert part.nbytes == len(DATA)
