"""A killed download goes on where it was: nothing wrong is kept, nothing is left over, little comes twice."""

import os
import random
import signal
import struct
import time

import pytest

from tests.hub.kills import Downloads
from tests.support.fake_hub import Stored

NAME = "model-00000-of-00001.safetensors"
SMALL, PIECE = 150_000, 64 << 10


def counted(folder):
    """Return how many bytes the state on the disk says are there. Read here on its own: counts behind 1,024 bytes."""
    state = folder / f"{NAME}.part.state"
    data = state.read_bytes()[1024:] if state.exists() else b""
    return sum(count for (count,) in struct.iter_unpack("<Q", data[: len(data) // 8 * 8]))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def finish(hub, downloads, folder):
    """Let a download run to its end. Return how many bytes the server sent for it."""
    before = len(hub.requests)
    downloads.start()
    assert downloads.ended() == 0
    assert (folder / NAME).read_bytes() == hub.files[NAME].data
    assert names(folder) == [NAME]
    return sum(request.sent for request in hub.requests[before:] if request.server == "cdn")


def kill_at_call(hub, downloads, folder, call, half):
    """Return False if the download ended before it made so many calls."""
    downloads.start(call, half)
    code = downloads.ended()
    if code == 0:
        return False
    assert code == -signal.SIGKILL
    if (folder / NAME).exists():
        assert (folder / NAME).read_bytes() == hub.files[NAME].data
        missing = 0
    else:
        missing = SMALL - counted(folder)
    assert finish(hub, downloads, folder) == missing
    (folder / NAME).unlink()
    return True


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


@pytest.mark.parametrize("half", [False, True], ids=["before a call", "in the middle of a write"])
@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_a_kill_at_any_change_of_the_disk_loses_only_that_change(hub, folder, step, half):
    hub.files[NAME] = Stored(random.Random(3).randbytes(SMALL), True)
    with Downloads(hub.address, folder / NAME, PIECE) as downloads:
        call = 1
        while kill_at_call(hub, downloads, folder, call, half):
            call += step
    assert call > 10


def test_the_state_is_the_last_thing_to_go(hub, folder):
    """A kill after the file has its name and before its state is removed is the only one that leaves both."""
    hub.files[NAME] = Stored(random.Random(3).randbytes(SMALL), True)
    with Downloads(hub.address, folder / NAME, PIECE) as downloads:
        downloads.start()
        assert downloads.ended() == 0
        (folder / f"{NAME}.part.state").write_bytes(b"")
        assert finish(hub, downloads, folder) == 0


# Each kill costs what was on its way, which on a busy machine is a large share of a small file.
@pytest.mark.parametrize(
    ("kills", "size", "share"), [pytest.param(30, 128 << 20, 0.05, marks=pytest.mark.slow), (5, 24 << 20, 0.25)]
)
def test_kills_from_outside_cost_little(hub, folder, kills, size, share):
    hub.files[NAME] = Stored(random.Random(4).randbytes(size), True)
    assert hub.files[NAME].storage_etag  # computed now, so that the first range does not wait for it
    hub.rate = 8e6
    rng = random.Random(5)
    places = sorted(rng.randrange(size) for _ in range(kills))
    with Downloads(hub.address, folder / NAME, 1 << 20) as downloads:
        for place in places:
            process = downloads.start()
            while hub.sent() < place:
                time.sleep(0.002)
            os.kill(process, signal.SIGKILL)
            assert downloads.ended() == -signal.SIGKILL
            assert not (folder / NAME).exists()
        finish(hub, downloads, folder)
    twice = hub.sent() / size - 1
    print(f"{kills} kills, {twice:.2%} of {size >> 20} MiB sent twice")
    assert twice < share
