"""The options that offer tools to a model, and the question whether a call may be made."""

import os
import select
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptoss_mlx.cli.terminal import at_terminal
from gptoss_mlx.errors import UsageError, shown

if TYPE_CHECKING:
    from gptoss_mlx.events import ToolCall, ToolResult
    from gptoss_mlx.tools.tool import Tool

Tools = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE.py",
        help="Let the model call functions of this Python file, or with `python` run code in a sandbox. Repeatable.",
    ),
]
Mcp = Annotated[
    list[Path] | None,
    typer.Option(metavar="CONFIG", help="Let the model use the MCP servers of a JSON file. Repeatable."),
]
AllowTools = Annotated[bool, typer.Option("--allow-tools", help="Make the model's calls without asking.")]

LINES_SHOWN = 6
"""Of a tool's result."""

POLL_SECONDS = 0.1


@dataclass
class Consent:
    """Whether a call may be made: always, from some sources, or if the user agrees at the terminal.

    ``pause`` leaves the screen to the question. ``stopped`` says that the user has stopped the reply meanwhile.
    """

    always: bool = False
    sources: set[str] = field(default_factory=set)
    pause: Callable[[], None] = lambda: None
    stopped: Callable[[], bool] = lambda: False

    def __call__(self, tool: "Tool", call: "ToolCall") -> bool:
        """Return whether ``call`` of ``tool`` may be made."""
        if self.always or tool.source in self.sources:
            return True
        self.pause()
        answer = _asked(shown(f"Run {call.name}? [y]es, [N]o, [a]lways for {tool.source}: "), self.stopped)
        if answer in ("a", "always"):
            self.sources.add(tool.source)
        return answer in ("y", "yes", "a", "always")


@contextmanager
def opened_tools(
    names: Sequence[str] | None, configs: Sequence[Path] | None, consent: Consent
) -> "Iterator[tuple[Tool, ...]]":
    """Yield the tools that the options name. MCP servers are ended at the end of the block. Raises UsageError for what
    cannot be used, and where calls need consent and nobody can be asked."""
    if not names and not configs:
        yield ()
        return
    with ExitStack() as stack:
        tools = [tool for name in names or () for tool in _named(name)]
        if configs:
            from gptoss_mlx.tools.mcp_servers import mcp_tools, read_config

            servers = [server for config in configs for server in read_config(config)]
            tools += stack.enter_context(mcp_tools(servers))
        if not consent.always and not at_terminal() and not all(tool.trusted for tool in tools):
            raise UsageError(
                "there is no terminal to ask at whether the model's calls may be made; allow all of them "
                "with --allow-tools"
            )
        yield tuple(tools)


def call_lines(call: "ToolCall") -> list[str]:
    """Return a call as it is shown: in one line, or with the lines of its code."""
    if call.message.recipient == call.name and "code" in call.arguments:
        return [f"→ {call.name}", *(f"  {shown(line)}" for line in call.arguments["code"].splitlines())]
    return [shown(f"→ {call.name}({call.message.content})")]


def result_lines(result: "ToolResult") -> list[str]:
    """Return the beginning of a result as it is shown."""
    lines = result.output.splitlines() or [""]
    more = [f"  … {len(lines) - LINES_SHOWN:,} more lines"] if len(lines) > LINES_SHOWN else []
    return [f"{'← ' if n == 0 else '  '}{shown(line[:400])}" for n, line in enumerate(lines[:LINES_SHOWN])] + more


def _named(name: str) -> "list[Tool]":
    if name == "python":
        return [_sandbox()]
    from gptoss_mlx.tools.functions import file_tools

    return file_tools(Path(name).expanduser())


def _sandbox() -> "Tool":
    """Return the sandbox's tool. Its first start compiles the interpreter, which is shown."""
    from gptoss_mlx.home import sandbox_dir
    from gptoss_mlx.tools.sandbox import is_prepared, prepare, sandbox_tool

    tool = sandbox_tool(sandbox_dir())
    if is_prepared(sandbox_dir()):
        return tool
    from rich.console import Console

    console = Console(stderr=True)
    text = "Preparing the sandbox, this once; it takes a minute or two"
    if not console.is_terminal:
        print(f"{text}.", file=sys.stderr)
        prepare(sandbox_dir(), lambda: None)
        return tool
    began = time.monotonic()
    with console.status(text) as status:
        prepare(sandbox_dir(), lambda: status.update(f"{text} ({time.monotonic() - began:.0f} s)"))
    return tool


def _asked(question: str, stopped: Callable[[], bool]) -> str:
    """Ask on standard error, and return what the user types to it, nothing if the user stops the reply. What was typed
    before the question is no answer to it."""
    descriptor = sys.stdin.fileno()
    with _line_input(descriptor):
        print(question, end="", file=sys.stderr, flush=True)
        while not select.select([descriptor], [], [], POLL_SECONDS)[0]:
            if stopped():
                print(file=sys.stderr)
                return ""
        typed = os.read(descriptor, 1024)
    if not typed:
        print(file=sys.stderr)
    return typed.decode(errors="replace").strip().lower()


@contextmanager
def _line_input(descriptor: int) -> Iterator[None]:
    """Have the terminal show what is typed and hand it over as a line, as it does outside of a reply."""
    before = termios.tcgetattr(descriptor)
    plain = [*before[:3], before[3] | termios.ECHO | termios.ICANON, *before[4:]]
    termios.tcsetattr(descriptor, termios.TCSAFLUSH, plain)
    try:
        yield
    finally:
        with suppress(termios.error):  # the terminal was closed
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
