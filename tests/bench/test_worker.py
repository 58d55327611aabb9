"""Our own program answers with the runtime's logits, for one sequence and for several."""

import sys

import numpy as np
import pytest

from gptoss_mlx.bench.peer import Peer
from gptoss_mlx.bench.worker import Ours
from gptoss_mlx.errors import PeerError
from tests.support.checkpoints import SMALL
from tests.support.measure import relative_l2
from tests.support.models import random_model


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp("worker"), SMALL)


@pytest.fixture
def peer(runtime):
    with Peer("ours", [sys.executable, "-m", "gptoss_mlx.bench.worker"], timeout=120) as peer:
        peer.load(runtime.folder.path, threads=1, rows=3, options={"dtype": "float32"})
        yield peer


def test_prompts_and_the_ids_after_them_have_the_runtimes_logits(runtime, peer, tmp_path):
    ids = np.random.default_rng(0).integers(0, SMALL["vocab_size"], (3, 9)).tolist()
    expected = np.array(runtime.logits(ids))
    for rows in (3, 1):  # the second time, what was read the first is forgotten
        peer.prefill([row[:7] for row in ids[:rows]], tmp_path / "logits")
        got = np.fromfile(tmp_path / "logits", np.float32).reshape(rows, -1)
        assert relative_l2(got, expected[:rows, 6]) < 1e-5
        for position in (7, 8):
            assert peer.decode([row[position] for row in ids[:rows]], tmp_path / "logits") > 0
            got = np.fromfile(tmp_path / "logits", np.float32).reshape(rows, -1)
            assert relative_l2(got, expected[:rows, position]) < 1e-5


def test_generation_is_the_runtimes_own_loop(runtime):
    """Each sequence goes on with what it draws, and the next piece of work begins anew."""
    ours = Ours(str(runtime.folder.path), {"dtype": "float32"})
    ids = np.random.default_rng(1).integers(0, SMALL["vocab_size"], (2, 5)).tolist()
    ours.prefill(ids)
    ours.generate(6)
    for number, (context, prompt) in enumerate(zip(ours._contexts, ids, strict=True)):
        drawn = list(runtime.generate(prompt, max_tokens=7, seed=number, stop=()))
        assert context.ids[:11] == [*prompt, *drawn[:6]]
    assert ours.prefill([[1]]).shape == (1, SMALL["vocab_size"])
    assert len(ours._contexts) == 1


def test_use_counts_the_process_and_not_its_parent(peer):
    ballast = np.ones(1 << 28, np.uint8)  # this process is larger than the program
    use = peer.usage()
    assert 1e7 < use.memory < 1e9
    assert use.cpu > 0
    assert ballast.nbytes


def test_an_error_of_the_runtime_is_one_line(peer):
    peer.prefill([[1, 2]])
    with pytest.raises(PeerError, match=r"^ours: decode failed \(2 ids for 1 sequences\)$"):
        peer.decode([1, 2])
