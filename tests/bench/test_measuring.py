"""What is measured of programs, and what is left out for which reason."""

import sys
from pathlib import Path

import pytest

from gptoss_mlx.bench.measuring import Effort, LeftOut, Measured, measurements
from gptoss_mlx.bench.peer import Peer
from gptoss_mlx.bench.programs import Program
from gptoss_mlx.bench.works import Generation, Prefill
from gptoss_mlx.errors import PeerError
from tests.bench.test_peer import WORKER

SOON = Effort(turns=1, least=1, warm_up=0, limit=0.0, cool_down=0.0)


def program(name, seconds=0.0, *then, **can):
    return Program(Peer(name, [sys.executable, str(WORKER), str(seconds), *then], timeout=20), Path("any"), **can)


def found(programs, *works, **options):
    return list(measurements(programs, works, SOON, vocabulary=9, **options))


def test_loading_and_the_first_token_come_first_and_then_each_work():
    results = found([program("ours", 0.01)], Prefill(4, 9), Generation(3, 9, 2, 4))
    assert [each.label for each in results] == ["load", "first token", "pp4", "tg3@d2 B4"]
    load, first, prefill, generation = results
    assert (load.tokens, first.tokens, prefill.tokens, generation.tokens) == (0, 0, 4, 12)
    assert first.timing.seconds("ours").median > 0.02  # a prompt, and a token
    assert load.timing.seconds("ours").median > 0.01
    assert all(each.memory == {"ours": 1 << 20} for each in results)
    assert (generation.depth, generation.rows) == (2, 4)


@pytest.mark.parametrize("apart", [False, True])
def test_programs_take_turns_in_memory_together_or_apart(apart):
    (*_, prefill) = found([program("ours", 0.01), program("other", 0.03)], Prefill(4, 9), apart=apart)
    assert prefill.timing.ratio("other", to="ours").median > 1.5
    assert set(prefill.memory) == {"ours", "other"}


def test_what_a_program_cannot_do_is_left_out_for_it_alone():
    ours, other = program("ours"), program("other", most_rows=1, loads=False)
    results = found([ours, other], Generation(3, 9), Generation(3, 9, 0, 4))
    assert set(results[0].memory) == {"ours"}  # nobody times the loading of the other
    assert set(results[2].memory) == {"ours", "other"}
    assert results[3] == LeftOut("tg3 B4", "other decodes 1 sequence at a time")
    assert set(results[4].memory) == {"ours"}


def test_a_prompt_that_would_take_too_long_is_left_out_by_how_long_a_shorter_one_took():
    slow = program("other", 0.1)
    effort = Effort(turns=1, least=1, warm_up=0, limit=0.0, longest=1.0, cool_down=0.0)
    works = (Prefill(10, 9), Prefill(200, 9), Generation(3, 9, 1000))
    results = list(measurements([program("ours"), slow], works, effort, vocabulary=9))
    left = [each for each in results if isinstance(each, LeftOut)]
    assert [each.label for each in left] == ["pp200", "tg3@d1000"]
    assert all(each.reason.startswith("other would read ") for each in left)
    assert [set(each.memory) for each in results if isinstance(each, Measured)][-2:] == [{"ours"}, {"ours"}]


def test_where_the_other_program_fails_ours_is_measured_all_the_same():
    other = program("other", 0, "generate", loads=False)
    results = found([program("ours"), other], Generation(3, 9))
    assert results[2] == LeftOut("tg3", "other: generate failed (no room for it)")
    assert set(results[3].memory) == {"ours"}


def test_where_ours_fails_that_is_the_error():
    with pytest.raises(PeerError, match=r"^ours: generate failed"):
        found([program("ours", 0, "generate"), program("other")], Generation(3, 9))


def test_it_rests_as_long_as_it_worked(monkeypatch):
    rests = []
    monkeypatch.setattr("gptoss_mlx.bench.measuring.time.sleep", rests.append)
    effort = Effort(turns=1, least=1, warm_up=0, limit=0.0, cool_down=0.15)
    list(measurements([program("ours", 0.1)], [Prefill(4, 9), Prefill(5, 9)], effort, vocabulary=9))
    assert 0.15 in rests  # not the 0.3 s and more that starting took
    assert all(rest <= 0.15 for rest in rests)
