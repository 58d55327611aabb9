"""The commands of a chat: their names, what they take, and their help. Carries none of them out."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A command, what it takes, the values that are completed, and its help."""

    name: str
    takes: str
    help: str
    values: tuple[str, ...] = ()


COMMANDS = (
    Command("/help", "", "this list"),
    Command("/new", "", "begin another conversation; this one is kept"),
    Command("/reasoning", "low|medium|high", "how long to think", ("low", "medium", "high")),
    Command("/system", "TEXT|off", "the instructions", ("off",)),
    Command("/model", "NAME", "go on with another model"),
    Command("/tools", "allow|ask", "the tools, and whether their calls are asked about", ("allow", "ask")),
    Command("/attach", "PATH", "send a text file with the next message, as @PATH in it does"),
    Command("/retry", "", "answer the last message again"),
    Command("/undo", "", "forget the last message and its answer"),
    Command("/edit", "", "write the next message in $EDITOR"),
    Command("/save", "NAME", "keep the conversation under a name"),
    Command("/copy", "", "copy the last answer"),
    Command("/tokens", "", "how much of the context is used"),
    Command("/compact", "", "have the model sum up, and go on from that"),
    Command("/thinking", "show|fold|hide", "how the thought is shown", ("show", "fold", "hide")),
    Command("/quit", "", "leave, as Ctrl-D does"),
)
ALIASES = {"/?": "/help", "/clear": "/new", "/exit": "/quit", "/bye": "/quit"}
NAMES = tuple(command.name for command in COMMANDS) + tuple(ALIASES)

KEYS = '''\
A command that takes something shows its value when it is alone. // begins a message with a slash.
Alt-Enter begins a line, """ begins and ends a text of several lines, Tab completes.
Ctrl-C stops a reply and keeps its answer so far.'''


def help_text() -> str:
    """Return the list of commands and keys."""
    aliases = {command: [alias for alias, name in ALIASES.items() if name == command] for command in ALIASES.values()}
    lines = []
    for command in COMMANDS:
        takes = f"{command.name} {command.takes}".strip()
        also = f" ({', '.join(aliases[command.name])})" if command.name in aliases else ""
        lines.append(f"{takes:<27} {command.help}{also}")
    return "\n".join([*lines, KEYS])


def values_of(command: str) -> tuple[str, ...]:
    """Return the values that a command completes."""
    return next((one.values for one in COMMANDS if one.name == command), ())
