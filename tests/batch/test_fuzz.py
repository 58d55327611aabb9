"""A quick sample of ``tests.reports.fuzz_batch``: every line is a request or an error of its own."""

import json

from gptoss_mlx.batch.source import open_source
from tests.reports.fuzz_batch import LINES, failures, read, spoiled


def test_every_line_ends_as_a_request_or_as_its_own_error(runtime):
    found = list(failures(list(spoiled(600, seed=20)), runtime.tokenizer))
    assert not found, f"{found[0].line[:500]!r}\n{found[0].problem}"


def test_the_lines_that_are_spoiled_are_good_ones(runtime, tmp_path):
    """A bad one would be refused for its own fault every time, and hide what the spoiled field does."""
    (tmp_path / "in.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in LINES))
    with open_source(str(tmp_path / "in.jsonl")) as source:
        assert all(read(line, runtime.tokenizer) for line in source.lines())
