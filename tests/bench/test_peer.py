"""A program answers, and every way in which it may not is one line."""

import sys
import time
from pathlib import Path

import pytest

from gptoss_mlx.bench.peer import Peer
from gptoss_mlx.errors import PeerError

WORKER = Path(__file__).with_name("scripted_worker.py")


def scripted(*arguments, timeout=30.0):
    return Peer("other", [sys.executable, str(WORKER), *map(str, arguments)], timeout=timeout)


def test_work_is_timed_by_the_program_and_use_is_told():
    with scripted(0.05) as peer:
        assert 0.05 <= peer.load(Path("anything"), threads=2) < 1
        assert 0.05 <= peer.prefill([[1, 2, 3]]) < 1
        assert 0.05 <= peer.decode([4]) < 1
        use = peer.usage()
        assert 0 < use.cpu < 5
        assert use.memory == 1 << 20


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ("die", r"other: ended with exit code 3 (ValueError: the tensor is\tmissing)"),
        ("crash", "other: was ended by signal 9"),
        ("error", "other: decode failed (no room for it)"),
        ("nonsense", "other: answered decode with b'42 tokens/s', which is no JSON object"),
        ("nothing", "other: answered without seconds"),
    ],
)
def test_a_program_that_fails_is_one_line(then, said):
    with scripted(0, then) as peer:
        peer.prefill([[1]])
        with pytest.raises(PeerError) as failed:
            peer.decode([1])
    assert str(failed.value) == said


def test_a_program_that_hangs_is_killed_after_the_timeout():
    begin = time.monotonic()
    with scripted(0, "hang") as peer:
        peer.prefill([[1]])
        peer.timeout = 1.0
        with pytest.raises(PeerError, match=r"^other: has not answered decode within 1 s$"):
            peer.decode([1])
    assert time.monotonic() - begin < 5
    assert peer._process.returncode == -9


def test_a_program_that_has_ended_before_it_is_asked_is_one_line():
    with Peer("other", [sys.executable, "-c", ""]) as peer:
        peer._process.wait()
        with pytest.raises(PeerError, match=r"^other: ended with exit code 0$"):
            peer.usage()


def test_a_program_that_cannot_be_started_is_one_line():
    with (
        pytest.raises(PeerError, match=r"^other: cannot be started \(.*No such file.*\)$"),
        Peer("other", ["/no/such"]),
    ):
        pass


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_no_process_is_left_when_the_block_is_interrupted(error):
    with pytest.raises(error), scripted(1000) as peer:
        raise error
    assert peer._process.returncode == -9


def test_a_program_ends_when_nobody_asks_any_more():
    with scripted(0) as peer:
        peer.prefill([[1]])
    assert peer._process.returncode == 0
