"""The device runs a step ahead where nothing waits for the host, and rows come and go without a trace."""

import numpy as np
import pytest

import gptoss_mlx
from gptoss_mlx.engine.stepping import Failed, Row, Stepper
from gptoss_mlx.model.decoder import Decoder
from gptoss_mlx.sampling import Sampling

GREEDY = Sampling(temperature=0)
DRAWN = Sampling(temperature=0.9, seed=7)


def ids(number):
    return np.random.default_rng(number).integers(0, 512, 20 + number).tolist()


def begun(runtime, stepper, number, sampling=GREEDY, most=12, stop=()):
    """Return a row that has produced its first token, and a list with that token."""
    row = Row(number, ids(number), runtime.context(), most, sampling, frozenset(stop))
    (outcome,) = stepper.begin(row, row.context.read(row.prompt))
    return row, [outcome.token]


def alone(runtime, number, sampling=GREEDY, most=12):
    options = {"temperature": sampling.temperature, "seed": sampling.seed, "stop": ()}
    return list(runtime.generate(ids(number), max_tokens=most, **options))


def finish(stepper, said):
    while stepper.rows:
        for one in stepper.step():
            assert not isinstance(one, Failed)
            said[one.id].append(one.token)
    return said


@pytest.fixture
def launched(monkeypatch):
    """A list that gets the number of rows of each step that is launched."""
    rows = []
    real = Decoder.decode

    def decode(self, tokens, caches, *more):
        rows.append(len(caches))
        return real(self, tokens, caches, *more)

    monkeypatch.setattr(Decoder, "decode", decode)
    return rows


def test_when_a_token_is_given_the_step_after_it_is_under_way(runtime, launched):
    stepper = Stepper(runtime.model)
    row, said = begun(runtime, stepper, 0, most=5)
    counts = []
    while stepper.rows:
        said += [one.token for one in stepper.step()]
        counts.append(len(launched))
    assert counts == [2, 3, 4, 4], "the last token is not read"
    assert said == alone(runtime, 0, most=5)
    assert row.context.ids == ids(0) + said[:-1]


def test_where_a_row_waits_for_the_host_nothing_runs_ahead(runtime, launched):
    own = gptoss_mlx.load(runtime.folder.path, dtype="float32", slots=5)
    stepper = Stepper(own.model)
    row, said = begun(own, stepper, 0, most=5)
    assert row.waits
    counts = []
    while stepper.rows:
        said += [one.token for one in stepper.step()]
        counts.append(len(launched))
        assert row.context.ids == ids(0) + said[:-1]
    assert counts == [1, 2, 3, 4]
    assert said == alone(runtime, 0, most=5)


def test_with_every_expert_in_a_slot_no_row_waits(runtime):
    own = gptoss_mlx.load(runtime.folder.path, dtype="float32", slots=8)
    stepper = Stepper(own.model)
    row, said = begun(own, stepper, 0)
    assert finish(stepper, {0: said})[0] == alone(runtime, 0)
    assert own.model.weights.paged.complete
    assert not row.waits


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN])
def test_a_row_that_stops_takes_part_in_one_step_more_and_nobody_notices(runtime, launched, sampling):
    want = [alone(runtime, number, sampling) for number in range(3)]
    launched.clear()
    stepper = Stepper(runtime.model)
    said = {}
    rows = []
    stop = next(id for at, id in enumerate(want[1]) if at > 2 and id not in want[1][:at])
    for number in range(3):
        row, said[number] = begun(runtime, stepper, number, sampling, stop=[stop] if number == 1 else ())
        rows.append(row)
    finish(stepper, said)
    length = want[1].index(stop) + 1
    assert [said[0], said[1], said[2]] == [want[0], want[1][:length], want[2]]
    assert launched == [3] * length + [2] * (11 - length)
    for row in rows:
        assert row.context.ids == (row.prompt + said[row.id])[: len(row.context.ids)]
        assert row.context.cache.length == len(row.context.ids)
    again = list(runtime.generate(ids(1) + want[1][:length] + [5], max_tokens=4, temperature=0, stop=()))
    context = rows[1].context
    context.read(ids(1) + want[1][:length] + [5])
    stepper = Stepper(runtime.model)
    more = Row(1, context.ids, context, 4, GREEDY, frozenset())
    (first,) = stepper.begin(more, context.read(list(context.ids)))
    assert finish(stepper, {1: [first.token]})[1] == again


def test_a_row_that_is_removed_or_joins_while_a_step_is_under_way_disturbs_no_other(runtime):
    stepper = Stepper(runtime.model)
    said = {}
    for number in (0, 1):
        _, said[number] = begun(runtime, stepper, number, DRAWN)
    for count in range(4):
        for one in stepper.step():
            said[one.id].append(one.token)
        if count == 1:
            stepper.remove(0)
            _, said[2] = begun(runtime, stepper, 2, DRAWN)
    finish(stepper, said)
    want = {number: alone(runtime, number, DRAWN) for number in range(3)}
    assert said == want | {0: want[0][:3]}


def test_where_all_rows_are_greedy_no_logits_are_written(runtime, monkeypatch):
    stepper = Stepper(runtime.model)
    said = {}
    for number in range(3):
        _, said[number] = begun(runtime, stepper, number)
    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "logits", None)
        finish(stepper, said)
    assert said == {number: alone(runtime, number) for number in range(3)}


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("rows", [1, 2])
def test_a_step_that_is_taken_again_draws_at_the_same_points(runtime, rows, error, monkeypatch):
    """What is interrupted is undone. What fails once is done row by row, or ends a row that is alone."""
    stepper = Stepper(runtime.model)
    said = {}
    for number in range(rows):
        _, said[number] = begun(runtime, stepper, number, DRAWN)
    for one in stepper.step():
        said[one.id].append(one.token)
    real = Stepper._wait
    left = [1]

    def wait(self, flight):
        left[0] -= 1
        if left[0] == 0:
            raise error("once")
        return real(self, flight)

    monkeypatch.setattr(Stepper, "_wait", wait)
    if error is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            stepper.step()
    elif rows == 1:
        assert [one.problem for one in stepper.step()] == ["the model cannot be run: once"]
        return
    assert finish(stepper, said) == {number: alone(runtime, number, DRAWN) for number in range(rows)}
