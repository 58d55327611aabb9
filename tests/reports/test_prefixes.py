"""A sample of ``make prefix-report``: shorter conversations in less memory."""

from tests.reports.prefixes import Scale, budgets, sample, wrong


def test_every_turn_reads_only_what_is_new_whatever_memory_dropped_and_after_a_kill():
    held, after = sample(Scale(length=700, turns=3, guests=(1,), kept=1000, context=1500))
    assert not wrong([*held, *after])
    assert {turn.name for turn in held} == {turn.name for turn in after} == {"first", "second", "guest-1"}
    assert sum(turn.evicted for turn in held) >= 1
    assert sum(turn.loaded for turn in held) >= 1
    assert all(turn.loaded for turn in after)
    later = [turn for turn in [*held, *after] if turn.prompt > turn.new]
    assert len(later) == 3 + 3 + 1
    assert max(turn.read for turn in later) < 120 < 700 < min(turn.prompt for turn in later)


def test_20b_keeps_an_agents_context_in_memory_beside_the_one_in_use():
    for gigabytes in (16, 24):
        kept, context = budgets(gigabytes)
        assert 48_000 <= kept <= context
