"""A reply that only repeats itself is noticed after 200 tokens, whatever repeats, and nothing else is."""

import random

import pytest

from gptoss_mlx.repetition import LONGEST, MOST, Repetition


def fed(ids):
    """How many ids it takes until a repetition is noticed, or None."""
    watch = Repetition()
    return next((number for number, id in enumerate(ids, 1) if watch.feed(id)), None)


@pytest.mark.parametrize("span", [1, 2, 7, 63, LONGEST])
def test_a_span_is_noticed_when_it_has_repeated_for_200_tokens(span):
    rng = random.Random(span)
    before = [rng.randrange(1000) for _ in range(500)]
    assert fed([*before, *[n % span - 5000 for n in range(span + MOST)]]) == 500 + span + MOST
    assert fed([*before, *[n % span - 5000 for n in range(span + MOST - 1)]]) is None


def test_a_longer_span_and_one_that_changes_are_not_noticed():
    assert fed([n % (LONGEST + 1) for n in range(2000)]) is None
    counting = [id for n in range(500) for id in (1, 2, 3, 1000 + n)]
    assert fed(counting) is None
    assert fed([n % 7 if n % 150 else -n for n in range(3000)]) is None


def test_what_was_noticed_stays_so():
    watch = Repetition()
    for id in [1] * 300 + [2]:
        watch.feed(id)
    assert watch.found
