"""A trace holds what a run chose, and playing it again costs what the run has cost."""

import functools
import itertools
import json
import os
from dataclasses import asdict

import numpy as np
import pytest

import gptoss_mlx
from gptoss_mlx.bundled import install_tiny
from gptoss_mlx.errors import StorageError, UsageError
from gptoss_mlx.installed import find_model
from gptoss_mlx.model.experts import Look
from gptoss_mlx.prediction.expert_trace import About, TraceWriter, read_trace
from gptoss_mlx.prediction.replay import POLICIES, Step, as_run, invented, kept_ahead, played, steps
from tests.support.models import always_ahead
from tests.support.questions import replies

ABOUT = About("toy", layers=2, experts=6, per_token=2, slots=4, expert_nbytes=100)


def sequence(*chosen) -> list[Step]:
    """Return one-layer steps of one expert each."""
    return [Step(False, False, np.array([[[id]]])) for id in chosen]


@pytest.fixture(scope="module")
def model():
    install_tiny()
    return find_model("tiny")


@pytest.mark.parametrize(("slots", "rows"), [(4, 1), (5, 1), (8, 1), (4, 3), (6, 9)])
def test_a_trace_played_as_it_ran_costs_exactly_what_the_run_has_cost(model, tmp_path, slots, rows):
    """One row runs on what is there, more are split into groups of rows, and nine are grouped by expert."""
    runtime = gptoss_mlx.load(model, slots=slots, trace_experts=tmp_path / "trace")
    replies(runtime, range(rows), rows, most=40)
    paged = runtime.model.weights.paged
    about, looks = read_trace(tmp_path / "trace")
    decode, prefill = as_run(about, looks)
    assert decode == paged.decode
    assert prefill == paged.prefill
    assert (decode.misses > 0) == (slots < 8)
    ways = {look.way for look in looks if not look.prompt}
    assert ways >= {"step"} | ({"rows"} if rows > 1 else set()) | ({"groups"} if rows > 8 else set())


def test_what_is_chosen_in_the_end_does_not_depend_on_slots(model, tmp_path):
    found = []
    for slots in (4, 5, None):
        runtime = gptoss_mlx.load(model, slots=slots, trace_experts=tmp_path / f"{slots}")
        said = replies(runtime, range(2), most=40)
        about, looks = read_trace(tmp_path / f"{slots}")
        assert about.slots == (slots or 8)
        found.append(steps(about, looks))
    assert sum(map(len, said.values())) - 2 == sum(not step.prompt for step in found[0])
    for other in found[1:]:
        assert len(other) == len(found[0])
        assert all(np.array_equal(a.chosen, b.chosen) for a, b in zip(found[0], other, strict=True))


def test_a_trace_has_the_weights_of_what_is_chosen(model, tmp_path):
    runtime = gptoss_mlx.load(model, slots=5, trace_experts=tmp_path / "trace")
    replies(runtime, range(1), most=10)
    looks = [look for look in read_trace(tmp_path / "trace")[1] if len(look.chosen)]
    for look in looks:
        assert look.weights.shape == look.chosen.shape
        np.testing.assert_allclose(look.weights.sum(axis=-1), 1, atol=3e-4)
        assert (np.diff(look.weights, axis=-1) <= 0).all()
        assert all(len(set(row)) == 4 for row in look.chosen.reshape(-1, 4).tolist())


def test_a_trace_changes_no_token(model, tmp_path):
    plain = gptoss_mlx.load(model)
    traced = gptoss_mlx.load(model, trace_experts=tmp_path / "trace")
    assert replies(traced, range(2), most=30) == replies(plain, range(2), most=30)


@pytest.mark.parametrize("slots", [1, 2, 3, 5])
def test_lru_counts_as_pythons_own_does(slots):
    random = np.random.default_rng(slots)
    ids = (random.zipf(1.3, 500) % 9).tolist()
    reference = functools.lru_cache(maxsize=slots)(lambda id: id)
    for id in ids:
        reference(id)
    for policy in ("LRU", "LRU of all layers", "LRU ahead"):
        assert played(sequence(*ids), 9, slots, policy).tally.misses == reference.cache_info().misses


@pytest.mark.parametrize("seed", range(6))
def test_belady_misses_as_few_as_any_choice_can(seed):
    """All ways to let experts go are tried, on requests of two at a time."""
    random = np.random.default_rng(seed)
    requests = [frozenset(random.choice(5, 2, replace=False).tolist()) for _ in range(9)]

    @functools.cache
    def least(at: int, held: frozenset) -> int:
        if at == len(requests):
            return 0
        absent = requests[at] - held
        kept = held - requests[at]
        room = 3 - len(requests[at])
        rests = itertools.combinations(sorted(kept), min(room, len(kept)))
        return len(absent) + min(least(at + 1, requests[at] | set(rest)) for rest in rests)

    taken = [Step(False, False, np.array([[sorted(ids)]])) for ids in requests]
    assert played(taken, 5, 3, "Belady").tally.misses == least(0, frozenset())


def test_no_policy_beats_beladys_and_more_slots_never_miss_more():
    taken = invented(3, 16, 2, 150, skew=0.7, stay=0.5)
    for policy in POLICIES:
        misses = [played(taken, 16, slots, policy, kept=1.0).tally.misses for slots in (2, 4, 8, 16)]
        bound = "Belady of all layers" if policy.endswith("all layers") else "Belady"
        assert misses == sorted(misses, reverse=True)
        assert all(
            few >= played(taken, 16, slots, bound).tally.misses
            for few, slots in zip(misses, (2, 4, 8, 16), strict=True)
        )


def test_this_runtime_lets_go_what_lru_does():
    """They may differ in which of several goes that were used last at the same time."""
    taken = invented(4, 32, 4, 300, skew=1.0, stay=0.5)
    own, lru = (played(taken, 32, 12, policy, kept=1.0) for policy in ("LRU ahead", "LRU"))
    assert own.tally.wanted == lru.tally.wanted == 300 * 4 * 4
    assert own.tally.misses == pytest.approx(lru.tally.misses, rel=0.03)
    assert own.steps == 300
    assert own.tally.readbacks == 300 + own.tally.repeats
    assert own.repeated == pytest.approx(lru.repeated, rel=0.03)


def test_a_trace_of_steps_that_wait_gives_what_running_ahead_reads_in_vain(model, tmp_path):
    """With the share that a run ahead kept, the choices of a run that waits cost what that run ahead has cost."""
    found = {}
    for ahead in (True, False):
        runtime = gptoss_mlx.load(model, slots=5, trace_experts=tmp_path / f"{ahead}")
        always_ahead(runtime, ahead)
        replies(runtime, range(3), 1)
        found[ahead] = read_trace(tmp_path / f"{ahead}")
    ran, _ = as_run(*found[True])
    kept = kept_ahead(*found[True])
    assert kept_ahead(*found[False]) == []
    taken = steps(*found[False])
    own = played(taken, 8, 5, "LRU ahead", kept=sum(kept) / len(kept)).tally
    right = played(taken, 8, 5, "LRU ahead", kept=1.0).tally
    assert right.misses < 0.97 * ran.misses
    assert own.misses == pytest.approx(ran.misses, rel=0.1)
    assert own.repeats == pytest.approx(ran.repeats, rel=0.1)
    assert as_run(*found[False])[0].misses == pytest.approx(right.misses, rel=0.03)


def test_what_is_invented_is_as_skewed_and_as_steady_as_asked():
    even = invented(2, 32, 4, 2000, skew=0, stay=0)
    again = np.mean([np.isin(b.chosen[0, 0], a.chosen[0, 0]).mean() for a, b in itertools.pairwise(even)])
    assert again == pytest.approx(4 / 32, abs=0.02)
    steady = invented(2, 32, 4, 2000, skew=0, stay=0.7)
    again = np.mean([np.isin(b.chosen[0, 0], a.chosen[0, 0]).mean() for a, b in itertools.pairwise(steady)])
    assert again == pytest.approx(0.7 + 0.3 * 4 / 32, abs=0.04)
    counts = np.sort(np.bincount(np.concatenate([s.chosen[0, 0] for s in invented(1, 32, 1, 6000, skew=1, stay=0)])))
    assert counts[-1] / counts[-4] == pytest.approx(4, rel=0.25)


@pytest.fixture
def written(tmp_path):
    """A trace of two steps, of which the first missed an expert of layer 0."""
    writer = TraceWriter(tmp_path / "trace", ABOUT)
    chosen = np.array([[[0, 1]], [[2, 3]]])
    weights = np.full(chosen.shape, 0.5, np.float32)
    writer(Look("step", False, 0, 0, chosen, weights))
    writer(Look("step", False, 1, None, chosen[1:], weights[1:]))
    writer(Look("step", False, 0, None, chosen, weights))
    return tmp_path / "trace"


def test_a_step_that_was_repeated_is_put_together(written):
    about, looks = read_trace(written)
    assert asdict(about) == asdict(ABOUT)
    assert [step.chosen.tolist() for step in steps(about, looks)] == [[[[0, 1]], [[2, 3]]]] * 2


def test_what_is_chosen_behind_a_missed_layer_is_compared_with_the_choice_in_the_end(tmp_path):
    """Of layers 1 and 2, which miss nothing, one keeps half of its choice and the other all."""
    about = About("toy", layers=3, experts=6, per_token=2, slots=4, expert_nbytes=100)
    looks = [
        Look("step", False, 0, 0, np.array([[[0, 1]], [[2, 3]], [[4, 5]]]), np.zeros((3, 1, 2))),
        Look("step", False, 1, None, np.array([[[2, 0]], [[5, 4]]]), np.zeros((2, 1, 2))),
    ]
    assert kept_ahead(about, looks) == [0.5, 1.0]
    assert kept_ahead(about, looks[1:]) == [], "a step that is not whole says nothing"


def test_a_torn_last_line_is_not_read(written):
    whole = read_trace(written)[1]
    written.write_bytes(written.read_bytes()[:-20])
    assert len(read_trace(written)[1]) == len(whole) - 1


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        "[]",
        "nonsense",
        '{"way":"step","prompt":false,"layer":0,"missed":null,"experts":[[[0,6]]],"weights":[[[1,0]]]}',
        '{"way":"step","prompt":false,"layer":1,"missed":null,"experts":[[[0,1]],[[0,1]]],"weights":[[[1,0]],[[1,0]]]}',
        '{"way":"step","prompt":false,"layer":0,"missed":2,"experts":[[[0,1]]],"weights":[[[1,0]]]}',
        '{"way":"leap","prompt":false,"layer":0,"missed":null,"experts":[[[0,1]]],"weights":[[[1,0]]]}',
    ],
)
def test_what_is_no_trace_is_refused_in_one_line(written, line):
    with written.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(UsageError, match="is no whole trace") as refused:
        read_trace(written)
    assert "\n" not in str(refused.value)


def test_another_file_is_no_trace(tmp_path):
    for content in ("", "{}\n", json.dumps({"format": "x", "version": 1}) + "\n", "\x00\n"):
        (tmp_path / "other").write_text(content)
        with pytest.raises(UsageError, match="is no whole trace"):
            read_trace(tmp_path / "other")
    with pytest.raises(UsageError, match="cannot be read"):
        read_trace(tmp_path / "absent")


def test_a_file_that_exists_is_never_written_over(model, written, tmp_path):
    before = written.read_bytes()
    with pytest.raises(StorageError, match="exists"):
        gptoss_mlx.load(model, trace_experts=written)
    assert written.read_bytes() == before
    with pytest.raises(StorageError, match="cannot be written"):
        gptoss_mlx.load(model, trace_experts=tmp_path / "no folder" / "trace")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_trace_that_can_no_longer_be_written_ends_the_reply_in_one_line(model, tmp_path):
    runtime = gptoss_mlx.load(model, trace_experts=tmp_path / "trace")
    said = runtime.generate([1, 2, 3], max_tokens=9, temperature=0, stop=())
    first = next(said)
    runtime.model.weights.paged.watch._file = open("/dev/full", "w", buffering=1)  # noqa: SIM115
    with pytest.raises(StorageError, match=r"cannot be written \(No space") as raised:
        list(said)
    assert "\n" not in str(raised.value)
    runtime.model.weights.paged.watch = None
    assert next(runtime.generate([1, 2, 3], max_tokens=1, temperature=0, stop=())) == first
