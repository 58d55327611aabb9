"""The thread that owns the model: orders between steps, and what becomes of rows when something fails."""

import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from gptoss_mlx.engine.batching import Failed, Produced
from gptoss_mlx.errors import ContextLengthError, EngineError
from gptoss_mlx.reply import ReplyReader
from gptoss_mlx.server.owner import Broken, Ended, Order, Owner


class Rows:
    """Rows that produce the same id for ever. ``fail`` is raised by the next step. ``unwritten`` calls of ``write``
    find something to do."""

    def __init__(self, token):
        self.token = token
        self.ids = []
        self.steps = 0
        self.fail = None
        self.unwritten = 0

    @property
    def busy(self):
        return bool(self.ids)

    def add(self, row):
        if row.prompt == "too long":
            raise ContextLengthError("too long")
        self.ids.append(row.id)

    def remove(self, id):
        self.ids = [one for one in self.ids if one != id]

    def write(self):
        self.unwritten = max(0, self.unwritten - 1)
        return not self.unwritten

    def step(self):
        time.sleep(0.01)
        self.steps += 1
        if self.fail:
            fail, self.fail = self.fail, None
            if isinstance(fail, Failed):
                self.remove(fail.id)
                return [fail]
            raise fail
        return [Produced(id, self.token, None) for id in self.ids]


@pytest.fixture
def rows(tokenizer):
    return Rows(tokenizer.encode("a")[0])


@pytest.fixture
def working():
    return []


@pytest.fixture
def owner(rows, working):
    @contextmanager
    def work():
        working.append(True)
        yield
        working.append(False)

    owner = Owner(lambda tell: tell(), work)
    owner.start()
    owner.do(lambda: owner.use(rows)).result(5)
    yield owner
    owner.close(5)


@pytest.fixture
def ask(owner, tokenizer):
    def ask(prompt=""):
        told = []

        def make(id):
            return SimpleNamespace(likeliest=None, id=id, prompt=prompt, cached=7)

        order = Order(owner.new_id(), make, ReplyReader(tokenizer), told.append)
        order.reader.expect_text()
        owner.add(order).result(5)
        return order, told

    return ask


def until(condition):
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_row_that_can_never_run_is_an_error_of_its_order_alone(owner, ask):
    with pytest.raises(ContextLengthError):
        ask("too long")
    _, told = ask()
    until(lambda: told)
    assert owner.running == 1


def test_an_order_to_end_is_carried_out_before_the_next_step(owner, rows, ask):
    first, told = ask()
    second, others = ask()
    until(lambda: told)
    owner.remove(first.id)
    owner.do(lambda: None).result(5)
    count = len(told)
    assert rows.ids == [second.id]
    more = len(others)
    until(lambda: len(others) > more + 2)
    assert len(told) == count


def test_a_row_that_fails_leaves_the_others(owner, rows, ask):
    first, told = ask()
    _, others = ask()
    rows.fail = Failed(first.id, EngineError("not finite"))
    until(lambda: any(isinstance(event, Broken) for event in told))
    more = len(others)
    until(lambda: len(others) > more + 2)
    assert owner.running == 1


def test_a_step_that_fails_for_all_ends_all_and_new_ones_begin(owner, rows, ask):
    asked = [ask() for _ in range(3)]
    rows.fail = ValueError("a bug")
    until(lambda: all(isinstance(told[-1], Broken) for _, told in asked))
    assert {type(told[-1].error) for _, told in asked} == {EngineError}
    assert owner.running == 0
    _, told = ask()
    until(lambda: told)


def test_work_is_done_between_steps_and_its_errors_are_its_own(owner, ask):
    _, told = ask()
    assert owner.do(threading.current_thread).result(5).name == "model"
    with pytest.raises(ZeroDivisionError):
        owner.do(lambda: 1 // 0).result(5)
    more = len(told)
    until(lambda: len(told) > more)


def test_a_mac_is_kept_awake_only_while_there_are_rows(owner, working, ask):
    assert working == []
    order, told = ask()
    until(lambda: told)
    assert working == [True]
    owner.remove(order.id)
    until(lambda: working == [True, False])


def test_what_was_read_is_written_while_nobody_waits_and_delays_no_order(owner, rows, ask):
    order, told = ask()
    until(lambda: told)
    rows.unwritten = 10_000  # of which each takes a pause
    owner.remove(order.id)
    until(lambda: 0 < rows.unwritten < 9_990 and not rows.ids)
    told = ask()[1]
    until(lambda: told)
    assert rows.unwritten > 5_000
    rows.unwritten = 3
    until(lambda: not rows.unwritten)


def test_a_reply_ends_with_its_counts(rows, ask):
    order, told = ask()
    until(lambda: told)
    until(lambda: len(order.ids) > 2)
    order.reader.over = True  # as after a stop string
    until(lambda: isinstance(told[-1], Ended))
    assert told[-1].reply.completion_tokens == len(order.ids)
    assert told[-1].reply.cached_tokens == 7
    assert rows.ids == []
