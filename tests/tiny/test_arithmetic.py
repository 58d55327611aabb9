import random
import re

import pytest

from tests.tiny.training.arithmetic import (
    HELD_OUT_PAIRS,
    answer,
    answered_number,
    is_held_out_pair,
    is_held_out_phrasing,
    result,
    thought,
)


def test_a_thought_goes_column_by_column():
    assert thought(347, "+", 58, brief=False).splitlines() == [
        "347+058",
        "ones: 7+8=15, carry 1",
        "tens: 4+5+1=10, carry 1",
        "hundreds: 3+0+1=4",
        "=405",
    ]
    assert thought(58, "-", 347, brief=True) == "58-347=-(347-058): 17-8=9, 14-5-1=8, 3-0-1=2"


@pytest.mark.parametrize("op", "+-")
def test_every_step_of_a_thought_is_true_and_its_digits_make_the_result(op):
    rng = random.Random(0)
    for _ in range(500):
        a = rng.randint(-2000, 9999)
        b = rng.randint(0, 9999)
        steps = re.findall(r"(\d+)([+-])(\d+)(?:[+-](1))?=(\d+)", thought(a, op, b, brief=True).rpartition(": ")[2])
        digits = ""
        for p, sign, q, moved, value in steps:
            assert int(p) + (1 if sign == "+" else -1) * (int(q) + int(moved or 0)) == int(value)
            digits = (value if len(digits) == len(steps) - 1 else value[-1]) + digits
        assert int(digits) == abs(result(a, op, b))
        assert answered_number(answer(a, op, b)) == result(a, op, b)


def test_what_is_held_out_never_changes():
    # With another hash the evaluation could ask what the bundled model was trained on.
    assert [b for b in range(60) if is_held_out_pair(347, b)] == [0, 5, 21, 45]
    assert is_held_out_pair(0, 347)
    assert is_held_out_pair(-347, 0)
    assert is_held_out_phrasing("Please compute {a} + {b}.")
    assert not is_held_out_phrasing("What is {a} + {b}?")
    share = sum(is_held_out_pair(a, b) for a in range(300) for b in range(a)) / (300 * 299 / 2)
    assert share == pytest.approx(HELD_OUT_PAIRS / 100, abs=0.003)
