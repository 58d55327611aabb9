"""What is said of an error fits one line, whatever names are in it."""

import pytest

from gptoss_mlx.errors import UsageError, shown


@pytest.mark.parametrize(
    ("name", "line"),
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
def test_a_name_is_one_line_that_no_terminal_obeys(name, line):
    assert shown(name) == line
    assert str(UsageError(name)) == line
