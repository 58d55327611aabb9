"""Show a reply while it arrives: on a terminal as a page that is drawn beside the decoding, else as the text comes.

The module knows a conversation's events. It knows no model and no input.
"""

from collections.abc import Callable
from types import TracebackType

from rich.console import Console

from gptoss_mlx import events
from gptoss_mlx.cli.tools import call_lines, result_lines
from gptoss_mlx.errors import shown
from gptoss_mlx.events import Done, ReplyEvent, Thought, ToolCall, ToolError, ToolResult
from gptoss_mlx.screen.drawing import Drawing
from gptoss_mlx.screen.page import Page, Thinking
from gptoss_mlx.screen.style import CALL, DIM, Paint, Span, printable


class ReplyView:
    """Shows the events of one reply. As a context manager it leaves the terminal with all shown, in a new line."""

    def __init__(
        self, console: Console, *, thinking: Thinking = "show", about: Callable[[], list[str]] = lambda: []
    ) -> None:
        """``about`` returns what else the line under the reply says."""
        self._about = about
        at_terminal = console.is_terminal and not console.is_dumb_terminal
        self._new = lambda: _Screen(console, thinking) if at_terminal else _Pipe(console, thinking)
        self._screen: _Screen | _Pipe = self._new()

    def __enter__(self) -> "ReplyView":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self._screen.close()
        except Exception:
            if error is None:
                raise

    def pause(self) -> None:
        """Print all that came so far for good, and leave the terminal to others until the next event."""
        self._screen.close()
        self._screen = self._new()

    def reading(self, read: int, total: int) -> None:
        """Show on a terminal how many of the prompt's ``total`` tokens are ``read``, until all are."""
        self._screen.reading(read, total)

    def show(self, event: ReplyEvent) -> None:
        """Show one event after those before it. Raises OSError if the terminal cannot be written to."""
        match event:
            case Thought(text):
                self._screen.thought(text)
            case events.Text(text):
                self._screen.answer(text)
            case ToolCall():
                for line in call_lines(event):
                    self._screen.line(line, CALL)
            case ToolResult():
                for line in result_lines(event):
                    self._screen.line(line)
            case ToolError():
                self._screen.line(shown(f"→ {event.name}: {event.problem}"), CALL)
            case Done():
                said = summary(event, brief=isinstance(self._screen, _Screen))
                self._screen.line(" · ".join([*said, *self._about()]))


def paint_of(console: Console) -> Paint:
    """Return the paint for what ``console`` can show."""
    attributes = console.is_terminal and console.color_system is not None
    return Paint(attributes=attributes, colours=attributes and not console.no_color)


class _Screen:
    """A page on a terminal. It is drawn by another thread."""

    def __init__(self, console: Console, thinking: Thinking) -> None:
        self._page = Page(paint_of(console), lambda: console.width, thinking)
        self._drawing = Drawing(lambda last: self._page.draw(last=last), console.file)

    def reading(self, read: int, total: int) -> None:
        self._drawing.put(lambda: self._page.reading(read, total))

    def thought(self, text: str) -> None:
        self._drawing.put(lambda: self._page.thought(text))

    def answer(self, text: str) -> None:
        self._drawing.put(lambda: self._page.answer(text))

    def line(self, text: str, style: str = DIM) -> None:
        self._drawing.put(lambda: self._page.line(text, style))

    def close(self) -> None:
        self._drawing.close()


class _Pipe:
    """A file or a pipe. The text comes as the model wrote it, without control characters."""

    def __init__(self, console: Console, thinking: Thinking) -> None:
        self._console = console
        self._paint = paint_of(console)
        self._thinking = thinking
        self._section = ""
        self._ends_line = True

    def reading(self, read: int, total: int) -> None:
        pass

    def thought(self, text: str) -> None:
        if self._thinking == "show":
            self._write("thinking", text)

    def answer(self, text: str) -> None:
        self._write("answer", text)

    def line(self, text: str, style: str = DIM) -> None:
        self.close()
        self._console.file.write(self._paint([Span(text, style), Span("\n")]))
        self._console.file.flush()

    def close(self) -> None:
        if not self._ends_line:
            self._console.file.write("\n")
        self._ends_line = True
        self._section = ""

    def _write(self, section: str, text: str) -> None:
        if section != self._section:
            self.close()
            if section == "thinking" or self._thinking == "show":
                self._console.file.write(f"{section} {'─' * 12}\n")
            self._section = section
        text = printable(text)
        self._console.file.write(text)
        self._console.file.flush()
        self._ends_line = text.endswith("\n") if text else self._ends_line


def summary(done: Done, *, brief: bool) -> list[str]:
    """Return what stands under a reply: token counts, speed, and the reason if the reply did not end as usual.
    ``brief`` leaves out a short wait, and how much of the prompt was read."""
    usage = done.usage
    parts = [f"{usage.completion_tokens} tokens", f"{usage.tokens_per_second:.1f} tokens/s"]
    if usage.time_to_first_token is not None and not (brief and usage.time_to_first_token < SHORT_WAIT):
        parts.append(f"first after {usage.time_to_first_token:.2f} s")
    if usage.cached_tokens and not brief:
        parts.append(f"{usage.prompt_tokens - usage.cached_tokens} of {usage.prompt_tokens} prompt tokens read")
    if why := CONTEXT_FULL if done.context_full else REASONS.get(done.reason):
        parts.append(f"{why}, while still thinking: no answer" if done.cut_in_thought else why)
    elif done.no_answer:
        parts.append("the model gave no answer: ask again, or in other words")
    return parts


SHORT_WAIT = 1.0
"""Seconds until the first token that are not worth a mention."""

CONTEXT_FULL = "the context is full: type /new for a new conversation"
REASONS = {
    "length": "stopped at the token limit",
    "repetition": "ended, because it only repeated itself",
    "cancelled": "stopped by you",
    "tool_limit": "stopped after too many tool calls in a row",
}
