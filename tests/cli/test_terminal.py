"""Text made fit to be written."""

import json

import pytest

from gptoss_mlx.cli.terminal import escaped, print_json


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("20b", "20b"),
        ("Größe 🙂 [red]", "Größe 🙂 [red]"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        ("\x9b2J\x7f\0", "\\x9b2J\\x7f\\x00"),
        ("\u202egnp.exe\u2028", "\\u202egnp.exe\\u2028"),  # turned around, and another kind of line end
        ("m\udcff", "m\\udcff"),
    ],
)
def test_a_name_is_one_line_that_no_terminal_obeys(name, shown):
    assert escaped(name) == shown


@pytest.mark.parametrize(("encoding", "raw"), [("utf-8", True), ("ascii", False), ("latin-1", False)])
def test_json_is_json_in_any_encoding(encoding, raw, monkeypatch, tmp_path):
    value = {"answer": "Größe 🙂"}
    with (tmp_path / "out").open("w", encoding=encoding) as file:
        monkeypatch.setattr("sys.stdout", file)
        print_json(value)
    written = (tmp_path / "out").read_bytes()
    assert json.loads(written) == value
    assert ("Größe 🙂".encode() in written) == raw
