"""The sums that lm-eval asks are held out of training, and their answers are right."""

from tests.lm_eval import sums
from tests.tiny.training.arithmetic import result


def test_the_file_holds_the_held_out_sums():
    assert sums.FILE.read_text() == sums.lines()


def test_one_of_four_choices_is_right():
    for one in sums.sums():
        a, op, b, equal = one["begun"].split()
        assert (equal, result(int(a), op, int(b))) == ("=", int(one["answer"]))
        assert len(set(one["choices"])) == 4
        assert one["choices"][one["label"]] == f" {one['answer']}."
