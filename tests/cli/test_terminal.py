"""JSON printed in any encoding."""

import json

import pytest

from gptoss_mlx.cli.terminal import print_json


@pytest.mark.parametrize(("encoding", "raw"), [("utf-8", True), ("ascii", False), ("latin-1", False)])
def test_json_is_json_in_any_encoding(encoding, raw, monkeypatch, tmp_path):
    value = {"answer": "Größe 🙂"}
    with (tmp_path / "out").open("w", encoding=encoding) as file:
        monkeypatch.setattr("sys.stdout", file)
        print_json(value)
    written = (tmp_path / "out").read_bytes()
    assert json.loads(written) == value
    assert ("Größe 🙂".encode() in written) == raw
