"""What is fastest now is used most, and what was slower is tried again."""

from gptoss_mlx.fastest import AGAIN, Fastest


def test_the_choice_follows_the_rates_that_ways_show():
    """A disk that is fastest with eight reads at a time, and then a page cache that is fastest with two."""
    depth = Fastest((2, 4, 8))
    used = []
    for use in range(20 * AGAIN):
        chosen = depth.choose()
        used.append(chosen)
        depth.measured(
            chosen, {2: 1e9, 4: 2e9, 8: 4e9}[chosen] if use < 10 * AGAIN else {2: 12e9, 4: 9e9, 8: 8e9}[chosen]
        )
    assert set(used[:3]) == {2, 4, 8}
    assert used[2 * AGAIN : 10 * AGAIN].count(8) > 7 * AGAIN
    assert used[12 * AGAIN :].count(2) > 7 * AGAIN


def test_one_slow_use_does_not_change_the_choice_for_long():
    """A use may take long because of something else. The next turn of the fastest says so."""
    ways = Fastest((True, False))
    used = []
    for use in range(10 * AGAIN):
        chosen = ways.choose()
        used.append(chosen)
        ways.measured(chosen, 0.1 if use == 5 * AGAIN else {True: 2.0, False: 1.0}[chosen])
    assert used[: 5 * AGAIN].count(False) == 5
    assert used[7 * AGAIN :].count(True) == 3 * (AGAIN - 1)


def test_one_way_is_always_chosen():
    only = Fastest(("this",))
    for _ in range(2 * AGAIN):
        assert only.choose() == "this"
        only.measured("this", 1.0)
