"""Run a small part of `python -m tests.reports.fuzz_files`."""

import pytest

from gptoss_mlx.errors import CheckpointError
from tests.reports import fuzz_files


def test_changed_files_are_read_or_refused_in_one_line():
    tally, wrong = fuzz_files.fuzz(700, seed=0)
    assert wrong is None
    assert min(tally["read"], tally["refused"]) > 100, tally


def test_damaged_weights_are_converted_or_refused_in_one_line_with_little_memory():
    tally, wrong = fuzz_files.fuzz(640, 0, fuzz_files.weights)
    assert wrong is None
    assert tally["read"] > 30, tally
    assert tally["refused"] > 300, tally


@pytest.mark.parametrize("error", [KeyError("x"), CheckpointError(""), RecursionError()])
def test_the_fuzzer_notices_what_is_no_error_of_ours(monkeypatch, error):
    def read(*_):
        raise error

    monkeypatch.setattr(fuzz_files, "open_checkpoint", read)
    _, wrong = fuzz_files.fuzz(7, seed=0)
    assert wrong is not None
    assert wrong[0] == "config in a checkpoint"


def test_the_fuzzer_notices_what_takes_long(monkeypatch):
    monkeypatch.setattr(fuzz_files, "SECONDS", 0.0)
    _, wrong = fuzz_files.fuzz(50, seed=0)
    assert wrong is not None
    assert "took" in wrong[1]


def test_the_fuzzer_notices_what_takes_much_memory(monkeypatch):
    monkeypatch.setattr(fuzz_files, "MEMORY", 1000)
    _, wrong = fuzz_files.fuzz(4, 0, fuzz_files.weights)
    assert wrong is not None
    assert "MB" in wrong[1]
