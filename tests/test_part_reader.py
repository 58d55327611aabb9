"""Parts of files are read whole into the memory they are meant for, in any number at a time."""

import os
import threading
import time

import numpy as np
import pytest

from gptoss_mlx.errors import ModelFolderError
from gptoss_mlx.fastest import Fastest
from gptoss_mlx.model_folder.part_reader import DEPTHS, MEASURED, Part, PartReader


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(np.random.default_rng(0).integers(0, 256, 1 << 20, np.uint8).tobytes())
    return path


def parts(file, count, length=1000):
    """Return parts at odd places, and the memory that they fill."""
    memory = np.zeros((count, length), np.uint8)
    return [Part(file, 7 + 997 * number, memory[number].data) for number in range(count)], memory


def wanted(file, count, length=1000):
    data = np.frombuffer(file.read_bytes(), np.uint8)
    return np.array([data[7 + 997 * number :][:length] for number in range(count)])


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("count", [1, 3, 200])
def test_every_part_is_filled_however_many_are_in_flight(file, depth, count, monkeypatch):
    monkeypatch.setattr(Fastest, "choose", lambda self: depth)
    reads, memory = parts(file, count)
    PartReader([file]).read(reads)
    assert np.array_equal(memory, wanted(file, count))


def test_a_read_that_brings_less_than_was_asked_for_goes_on(file, monkeypatch):
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: real(fd, [buffers[0][:300]], at))
    reads, memory = parts(file, 20)
    PartReader([file]).read(reads)
    assert np.array_equal(memory, wanted(file, 20))


@pytest.mark.parametrize("depth", DEPTHS)
def test_so_many_are_in_flight_and_none_is_when_it_is_over(file, depth, monkeypatch):
    """The reads wait for each other: fewer at once would never end, and a thread more would be seen."""
    monkeypatch.setattr(Fastest, "choose", lambda self: depth)
    meet = threading.Barrier(depth, timeout=20)
    inside = set()
    most = []
    lock = threading.Lock()
    real = os.preadv

    def preadv(*arguments):
        with lock:
            inside.add(threading.get_ident())
            most.append(len(inside))
        meet.wait()
        with lock:
            inside.discard(threading.get_ident())
        return real(*arguments)

    monkeypatch.setattr(os, "preadv", preadv)
    reads, memory = parts(file, 4 * depth)
    PartReader([file]).read(reads)
    assert max(most) == depth
    assert not inside
    assert np.array_equal(memory, wanted(file, 4 * depth))


def test_after_an_error_nothing_is_written_any_more(file, monkeypatch):
    """The caller's own read fails at once, while those of other threads still take their time."""
    monkeypatch.setattr(Fastest, "choose", lambda self: 8)
    reads, memory = parts(file, 200)
    real = os.preadv

    def preadv(descriptor, buffers, offset):
        if threading.current_thread() is threading.main_thread():
            raise OSError(5, "Input/output error")
        time.sleep(0.1)
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(ModelFolderError, match="Input/output error"):
        PartReader([file]).read(reads)
    after = memory.copy()
    assert after.any(), "the slow ones ended"
    assert not after.all(axis=1).all(), "the rest did not begin"
    time.sleep(0.3)
    assert np.array_equal(memory, after)


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(ModelFolderError, match="nothing-here: cannot be read"):
        PartReader([tmp_path / "nothing-here"])


def test_small_reads_tell_nothing_of_a_disk(tmp_path):
    file = tmp_path / "large"
    file.write_bytes(bytes(MEASURED))
    memory = np.zeros(MEASURED, np.uint8)
    reader = PartReader([file])
    reader.read([Part(file, 0, memory[:-1].data)])
    assert not reader.depth.rates
    reader.read([Part(file, 0, memory.data)])
    assert set(reader.depth.rates) == {DEPTHS[0]}
