"""How a reply looks on the screen of a terminal emulator, which reads the escape codes."""

import io
import re
import time

import pytest
from rich.console import Console

from gptoss_mlx.cli.display import ReplyView
from gptoss_mlx.events import Done, Text, Thought, ToolError
from gptoss_mlx.screen.style import Paint
from gptoss_mlx.screen.transient import Transient
from gptoss_mlx.usage import Usage
from tests.screen.terminal import lines_on

USAGE = Usage(
    prompt_tokens=50,
    cached_tokens=0,
    completion_tokens=24,
    thought_tokens=10,
    seconds=2.0,
    time_to_first_token=0.5,
    tokens_per_second=12.0,
)
ANSWER = """\
# Sums

The **total** of the two numbers you gave me is written below, in a list:

1. first `405`
2. then nothing

```python
x = 347 + 58

print(x)
```

| a | b |
|---|---|
| 1 | 2 |

Done.
"""


class Screen:
    def __init__(self, columns, lines, **options):
        self.bytes = io.StringIO()
        options = {"force_terminal": True, "color_system": "standard", "legacy_windows": False} | options
        self.console = Console(file=self.bytes, width=columns, height=lines, **options)
        self.columns = columns

    def show(self, events, **options):
        with ReplyView(self.console, **options) as view:
            for event in events:
                view.show(event)
        return lines_on(self.columns, self.bytes.getvalue())


def pieces(kind, text, size):
    return [kind(text[i : i + size]) for i in range(0, len(text), size)]


@pytest.mark.parametrize(("columns", "lines"), [(100, 30), (40, 20), (40, 8)])
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_thought_then_answer_each_once_whatever_the_size_of_screen_and_pieces(columns, lines, size):
    thought = "\n".join(f"{n}: seven plus eight is fifteen, write five and carry one along" for n in range(8))
    shown = Screen(columns, lines).show(
        [*pieces(Thought, thought, size), *pieces(Text, ANSWER, size), Done("stop", USAGE)]
    )
    text = "\n".join(shown)
    assert shown[0].startswith("thinking ──")
    assert [text.count(f"{n}: seven") for n in range(8)] == [1] * 8
    assert "**" not in text
    for once in ("Sums", "first 405", "x = 347 + 58", "Done.", "12.0 tokens/s", "answer ──"):
        assert text.count(once) == 1, once
    assert text.index("7: seven") < text.index("answer ──") < text.index("Sums") < text.index("Done.")
    if columns == 100:
        assert ["1", "2"] in [line.split() for line in shown]


def meanwhile(screen, condition):
    """Wait until what the terminal shows meets ``condition``. Return its lines."""
    end = time.monotonic() + 10
    while not condition(lines := lines_on(screen.columns, screen.bytes.getvalue())):
        assert time.monotonic() < end, lines
        time.sleep(0.01)
    return lines


def test_a_long_block_of_code_is_shown_while_it_is_written():
    screen = Screen(40, 10)
    with ReplyView(screen.console) as view:
        view.show(Text("```python\n"))
        for n in range(30):
            view.show(Text(f"x{n} = {n}\n"))
        meanwhile(screen, lambda lines: "x29 = 29" in lines)
        view.show(Done("stop", USAGE))
    text = "\n".join(screen.show([]))
    assert [len(re.findall(rf"x{n} = ", text)) for n in range(30)] == [1] * 30


def test_a_folded_thought_shows_its_last_words_and_then_its_length():
    screen = Screen(50, 20)
    with ReplyView(screen.console, thinking="fold") as view:
        for n in range(300):
            view.show(Thought(f"step {n} "))
        lines = meanwhile(screen, lambda lines: "step 299" in "".join(lines))
        assert lines[0].startswith("thinking, 2,")
        assert len(lines) == 5
        view.show(Text("Four."))
    lines = screen.show([])
    assert re.fullmatch(r"thought, 2,\d{3} characters in \d+\.\d s", lines[0])
    assert lines[1:] == ["Four.", ""]


def test_a_thought_wider_than_the_window_was_made_is_erased_whole():
    """The terminal wraps the rows again when it is made narrower."""
    rows = Transient(Paint(attributes=False))
    written = rows.draw(["a" * 60, "b" * 60], 80)
    assert written == f"{'a' * 60}\n{'b' * 60}"
    assert rows.erase(40) == "\x1b[3A\r\x1b[J"
    assert rows.erase(40) == ""


def test_a_hidden_thought_leaves_the_answer_alone():
    screen = Screen(60, 20)
    with ReplyView(screen.console, thinking="hide") as view:
        view.show(Thought("secret"))
        meanwhile(screen, lambda lines: lines[0].startswith("thinking, 6 characters"))
        view.show(Text("Four."))
    shown = screen.show([])
    assert shown[0] == "Four."
    assert not any("secret" in line for line in shown)


@pytest.mark.parametrize("options", [{"no_color": True}, {"color_system": None}])
def test_without_colour_it_reads_the_same(options):
    events = [Thought("hm"), Text(ANSWER), Done("stop", USAGE)]
    assert Screen(60, 40, **options).show(events) == Screen(60, 40).show(events)


def test_piped_text_has_no_control_codes_and_comes_as_it_is():
    out = io.StringIO()
    console = Console(file=out, width=40)
    with ReplyView(console) as view:
        for event in [*pieces(Thought, "a" * 100, 9), *pieces(Text, ANSWER, 9), Done("length", USAGE, True)]:
            view.show(event)
    text = out.getvalue()
    assert "\x1b" not in text
    assert "a" * 100 in text
    assert ANSWER in text
    assert "still thinking: no answer" in text.replace("\n", " ")


def test_markup_and_control_codes_in_a_reply_are_shown_or_dropped_never_obeyed():
    shown = Screen(60, 20).show(
        [Thought("[red]x[/red] \x1b[2J\x07gone?"), ToolError("f", "[bold]no"), Text("ok \x1b]0;title\x07\x9b2J")]
    )
    text = "\n".join(shown)
    assert "[red]x[/red]" in text
    assert "[bold]no" in text
    assert "gone?" in text
    assert "ok ]0;title" in text


def test_a_call_is_one_line_whatever_its_name_and_arguments_hold():
    shown = Screen(60, 20).show([ToolError("f\x1b[2J\ng", "no\nsuch")])
    assert "→ f\\x1b[2J\\ng: no\\nsuch" in shown


def on_screen(screen):
    """Return the lines that a terminal shows now, without empty ones."""
    return [line for line in lines_on(screen.columns, screen.bytes.getvalue()) if line]


def test_while_a_long_prompt_is_read_a_line_says_how_far():
    screen = Screen(60, 10)
    with ReplyView(screen.console) as view:
        view.reading(512, 8000)
        view.reading(1024, 8000)
        meanwhile(screen, lambda lines: lines == ["read 1,024 of 8,000 tokens"])
        view.reading(8000, 8000)
        view.show(Text("There."))
    assert on_screen(screen)[-1] == "There."
    assert not any("read 1,024" in line for line in on_screen(screen))


def test_a_cancelled_reading_leaves_no_line_behind():
    screen = Screen(60, 10)
    with ReplyView(screen.console) as view:
        view.reading(512, 8000)
    assert on_screen(screen) == []


def test_a_pipe_is_not_told_how_far():
    out = io.StringIO()
    with ReplyView(Console(file=out, width=40)) as view:
        view.reading(512, 8000)
        view.reading(8000, 8000)
    assert out.getvalue() == ""
