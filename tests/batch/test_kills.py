"""A small version of ``make batch-kill-test``, on random weights."""

import json

from tests.batch.kills import experiment


def test_killed_at_any_point_and_run_again_every_prompt_is_answered_once(runtime, tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps({"id": f"p{n}", "prompt": "x" * n}) + "\n" for n in range(1, 31)))
    options = ["--model", str(runtime.folder.path), "--max-tokens", "5", "--concurrency", "4"]
    kills = 6
    report = experiment(tmp_path, source, options, kills)
    assert report.fine, str(report)
    assert len(report.kills) == kills
    assert len({kill.lines for kill in report.kills}) >= 4, str(report)
    assert any(kill.torn for kill in report.kills), str(report)
