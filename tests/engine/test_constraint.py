"""A row under a constraint draws only what it allows, alone or beside others, and every undone step undoes it too."""

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.engine.batching import Batch
from gptoss_mlx.engine.constraint import allowed, restricted
from gptoss_mlx.engine.sampling import draw_token
from gptoss_mlx.engine.stepping import Failed, Row, Stepper
from gptoss_mlx.errors import ConstraintError
from gptoss_mlx.model.decoder import Decoder
from gptoss_mlx.sampling import Sampling

V = 512
GREEDY = Sampling(temperature=0)
HOT = Sampling(temperature=2.0, seed=5)
END = 500


class Digits:
    """Ids of ``choice``; after an id of ``then`` follow the ids that it stands for, and after ``count`` ids the end."""

    def __init__(self, count=12, choice=range(10, 40), then=None):
        self.end = END
        self.read = []
        self._count, self._choice, self._then = count, list(choice), then or {}

    @property
    def length(self):
        return len(self.read)

    def accept(self, id):
        assert not self.due() or self.due()[0] == id
        self.read.append(id)

    def due(self):
        for back in range(1, 4):
            if len(self.read) >= back and len(self._then.get(self.read[-back], ())) >= back:
                return self._then[self.read[-back]][back - 1 :]
        return []

    def forced(self):
        return self.due() or ([END] if len(self.read) >= self._count else [])

    def mask(self):
        mask = np.zeros(-(-V // 32), np.uint32)
        for id in self._choice:
            mask[id // 32] |= np.uint32(1 << id % 32)
        return mask

    def rewind(self, length):
        del self.read[length:]


FORCING = {10: [200, 201, 202], 11: [203], 20: [204, 205], 30: [206, 207], 35: [208, 209, 210]}


def prompt(number):
    return np.random.default_rng(number).integers(0, V, 20 + number).tolist()


def row(runtime, number, sampling=HOT, most=40, constraint=None, stop=()):
    return Row(number, prompt(number), runtime.context(), most, sampling, frozenset(stop), constraint=constraint)


def run(runtime, rows):
    batch = Batch(runtime.model)
    for one in rows:
        batch.add(one)
    said = {one.id: [] for one in rows}
    while batch.busy:
        for produced in batch.step():
            assert not isinstance(produced, Failed), produced
            said[produced.id].append(produced.token)
    return said


@pytest.mark.parametrize("sampling", [GREEDY, HOT, Sampling(1.0, top_k=3, seed=1), Sampling(1.5, min_p=0.2, seed=2)])
def test_only_allowed_ids_are_drawn_and_what_is_forced_follows(runtime, sampling):
    constraint = Digits(then=FORCING)
    ids = run(runtime, [row(runtime, 0, sampling, constraint=constraint)])[0]
    assert ids[-1] == END
    assert constraint.read == ids[:-1]
    again = Digits(then=FORCING)
    for id in ids[:-1]:
        assert id in (again.due() or range(10, 40))[:1] or id in range(10, 40)
        again.accept(id)
    assert len(ids) > 12


def test_what_is_forced_is_read_as_if_it_had_been_drawn(runtime):
    """The ids after a forced span are those that follow the same ids in a prompt."""
    constraint = Digits(count=30, then=FORCING)
    one = row(runtime, 1, GREEDY, constraint=constraint)
    ids = run(runtime, [one])[1]
    spans = [at for at, id in enumerate(ids) if id in FORCING]
    assert spans
    read = prompt(1) + ids
    assert one.context.ids == read[: len(one.context.ids)]
    assert one.context.cache.length == len(one.context.ids)
    for at in spans:
        after = at + 1 + len(FORCING[ids[at]])
        if after < len(ids) - 1:
            logits = runtime.logits([prompt(1) + ids[:after]])[:, -1]
            best = restricted(logits, allowed(constraint, V))
            assert mx.argmax(best).item() == ids[after]


def test_what_is_forced_first_needs_no_draw(runtime):
    class Begins(Digits):
        def due(self):
            return [7, 8, 9][len(self.read) :] or super().due()

    ids = run(runtime, [row(runtime, 0, constraint=Begins())])[0]
    assert ids[:3] == [7, 8, 9]
    assert len(ids) == 13


def test_rows_with_and_without_a_constraint_do_not_change_each_other(runtime):
    def rows():
        free = [row(runtime, number, sampling, most=25) for number, sampling in ((0, GREEDY), (1, HOT))]
        bound = [
            row(runtime, n, s, constraint=Digits(10 + n, then=FORCING)) for n, s in ((2, GREEDY), (3, HOT), (4, HOT))
        ]
        return free + bound

    together = run(runtime, rows())
    assert together == {one.id: run(runtime, [one])[one.id] for one in rows()}


def test_a_row_under_a_constraint_waits_and_free_rows_run_ahead(runtime, monkeypatch):
    launched = []
    real = Decoder.decode
    monkeypatch.setattr(
        Decoder, "decode", lambda self, ids, caches, *more: launched.append(0) or real(self, ids, caches, *more)
    )
    for constraint, ahead in ((Digits(then={}), 0), (None, 1)):
        launched.clear()
        stepper = Stepper(runtime.model)
        one = row(runtime, 0, constraint=constraint)
        stepper.begin(one, one.context.read(one.prompt))
        launched.clear()
        stepper.step()
        assert one.waits == (not ahead)
        assert len(launched) == 1 + ahead


def test_a_mask_is_made_while_the_device_computes(runtime, monkeypatch):
    """The step is under way before the constraint is asked."""
    order = []
    real = mx.async_eval
    monkeypatch.setattr(mx, "async_eval", lambda *arrays: order.append("device") or real(*arrays))

    class Told(Digits):
        def mask(self):
            order.append("mask")
            return super().mask()

    stepper = Stepper(runtime.model)
    one = row(runtime, 0, constraint=Told())
    stepper.begin(one, one.context.read(one.prompt))
    order.clear()
    stepper.step()
    assert order == ["device", "mask", "device"]


@pytest.mark.parametrize("place", ["_wait", "_land", "_masks", "_draw"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_step_that_is_undone_takes_its_constraint_back(runtime, place, error, monkeypatch):
    def rows():
        return [row(runtime, n, HOT, constraint=Digits(then=FORCING)) for n in range(2)] + [
            row(runtime, 2, HOT, most=9)
        ]

    want = run(runtime, rows())
    stepper = Stepper(runtime.model)
    said = {}
    for one in rows():
        said[one.id] = [p.token for p in stepper.begin(one, one.context.read(one.prompt))]
    real = getattr(Stepper, place)
    calls = [0]

    def fails(self, *given):
        calls[0] += 1
        if calls[0] == 3:
            if place == "_land":
                real(self, *given)
            raise error("once")
        return real(self, *given)

    monkeypatch.setattr(Stepper, place, fails)
    interrupted = 0
    while stepper.rows:
        try:
            outcomes = stepper.step()
        except KeyboardInterrupt:
            interrupted += 1
            continue
        for produced in outcomes:
            said[produced.id].append(produced.token)
    assert interrupted == (error is KeyboardInterrupt)
    assert said == want


def test_a_constraint_that_fails_ends_its_row_alone(runtime):
    class Breaks(Digits):
        def mask(self):
            if self.length == 4:
                raise ConstraintError("too much work")
            return super().mask()

    class Empty(Digits):
        def mask(self):
            return super().mask() * (self.length < 4)

    class Refuses(Digits):
        def accept(self, id):
            if self.length == 4:
                raise ConstraintError("no")
            super().accept(id)

    free = run(runtime, [row(runtime, 0, HOT, most=9)])[0]
    batch = Batch(runtime.model)
    for one in (
        row(runtime, 0, HOT, most=9),
        *(row(runtime, n, constraint=c(then={})) for n, c in ((1, Breaks), (2, Empty), (3, Refuses))),
    ):
        batch.add(one)
    said, failed = [], {}
    while batch.busy:
        for produced in batch.step():
            if isinstance(produced, Failed):
                failed[produced.id] = produced.error
            elif produced.id == 0:
                said.append(produced.token)
    assert said == free
    assert failed.keys() == {1, 2, 3}
    assert all(isinstance(error, ConstraintError) for error in failed.values())


def test_the_limit_holds_within_what_is_forced(runtime):
    ids = run(runtime, [row(runtime, 0, most=6, constraint=Digits(choice=[10], then=FORCING))])[0]
    assert ids == [10, 200, 201, 202, 10, 200]


def test_a_mask_may_be_shorter_or_longer_than_the_vocabulary():
    class Given(Digits):
        def __init__(self, mask):
            self._mask = np.array(mask, np.uint32)

        def mask(self):
            return self._mask

    logits = mx.arange(40, dtype=mx.float32)[None]
    for mask, best in (([1 << 5], 5), ([0, 1 << 7, 1], 39), ([3, 1 << 9], 1)):
        drawn = draw_token(logits, GREEDY, mx.zeros(1), allowed(Given(mask), 40))
        assert drawn.ids() == [best]
    for mask in ([0], [0, 1 << 8], []):
        with pytest.raises(ConstraintError):
            allowed(Given(mask), 40)


def test_logits_that_are_not_finite_are_found_though_a_mask_hides_them():
    logits = mx.array([[1.0, float("nan"), 2.0, 3.0]])
    assert draw_token(logits, GREEDY, mx.zeros(1), mx.array([0b1101], mx.uint32)).ids() == [None]
