"""A run over the mutants that was interrupted goes on where it ended."""

from tests.metal_kernels.mutate import Verdicts
from tests.metal_kernels.mutations import Mutant

FIRST, SECOND = (Mutant("guard", "best.h", line, f"line {line} without its guard", "") for line in (1, 2))


def test_verdicts_are_known_to_the_next_run(tmp_path):
    verdicts = Verdicts(tmp_path / "out" / "kept.jsonl", "source")
    verdicts.add(FIRST, "noticed", "2 values differ")
    verdicts.add(SECOND, "MISSED", "")
    assert Verdicts(verdicts.file, "source").known == {
        str(FIRST): ("noticed", "2 values differ"),
        str(SECOND): ("MISSED", ""),
    }
    assert Verdicts(verdicts.file, "changed").known == {}


def test_a_verdict_that_a_kill_tore_is_judged_again(tmp_path):
    verdicts = Verdicts(tmp_path / "kept.jsonl", "source")
    verdicts.add(FIRST, "noticed", "2 values differ")
    verdicts.file.write_text(verdicts.file.read_text()[:-5])
    verdicts.add(SECOND, "noticed", "a race")
    assert list(Verdicts(verdicts.file, "source").known) == [str(SECOND)]
