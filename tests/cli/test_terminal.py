"""JSON printed in any encoding, and tables in any width."""

import json

import pytest

from gptoss_mlx.cli.terminal import print_json
from tests.support.cli import run_cli


@pytest.mark.parametrize(("encoding", "raw"), [("utf-8", True), ("ascii", False), ("latin-1", False)])
def test_json_is_json_in_any_encoding(encoding, raw, monkeypatch, tmp_path):
    value = {"answer": "Größe 🙂"}
    with (tmp_path / "out").open("w", encoding=encoding) as file:
        monkeypatch.setattr("sys.stdout", file)
        print_json(value)
    written = (tmp_path / "out").read_bytes()
    assert json.loads(written) == value
    assert ("Größe 🙂".encode() in written) == raw


def test_a_narrow_terminal_leaves_no_figure_of_a_table_out(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    code, out, _ = run_cli("doctor", "--macs", "M4 Pro 24GB, M2 16GB")
    assert code == 0
    assert "16.49" in out
    assert "0 to 13" in out
    assert "…" not in out
