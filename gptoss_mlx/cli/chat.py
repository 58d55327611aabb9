"""``gptoss-mac chat``: a conversation in the terminal, with the model's thought visible."""

import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from gptoss_mlx.cli import options
from gptoss_mlx.cli.terminal import on_interrupt, without_echo
from gptoss_mlx.errors import GptOssError, SessionError, UsageError, shown
from gptoss_mlx.files import replaced_whole
from gptoss_mlx.text_input import LineReader, decoded

if TYPE_CHECKING:
    from gptoss_mlx.conversation import Conversation
    from gptoss_mlx.screen.page import Thinking
    from gptoss_mlx.sessions import Session

HELP = """\
/help                     this list
/new                      forget the conversation
/reasoning low|medium|high  how long to think
/system [TEXT]            set or clear the instructions
/thinking show|fold|hide  how the thought is shown
/quit                     leave, as Ctrl-D does
Ctrl-C stops a reply and keeps its answer so far."""


def chat(
    model: Annotated[
        str | None, typer.Option(help=options.MODEL_HELP, show_default=f"the session's, or {options.DEFAULT_MODEL}")
    ] = None,
    reasoning: Annotated[
        options.ReasoningChoice | None,
        typer.Option(help=options.REASONING_HELP, show_default="the session's, or medium"),
    ] = None,
    system: options.System = None,
    temperature: options.Temperature = None,
    max_tokens: options.MaxTokens = None,
    seed: options.Seed = None,
    session: Annotated[
        str | None,
        typer.Option(
            help="Save the conversation under this name, or resume it.", metavar="NAME", callback=options.as_text
        ),
    ] = None,
    last: Annotated[bool, typer.Option("--continue", help="Resume the session saved last.")] = False,
    memory: options.Memory = None,
    context: options.ContextTokens = None,
    trace_experts: options.TraceExperts = None,
    prefix_disk: options.PrefixDisk = options.PREFIX_DISK,
    own_model: options.OwnModel = False,
    yes: options.Yes = False,
) -> None:
    """Chat with a model. Its thought is shown before the answer. Type /help for the commands."""
    from gptoss_mlx.installed import lasting_name

    console = Console(highlight=False)
    name, kept = _find_session(session, last)
    if model is None and kept is not None:
        model = kept.model
    loading = options.Loading(model, yes, memory, context, trace_experts, prefix_disk, own_model)
    if kept is None:
        conversation = options.start_conversation(loading, reasoning or "medium", system, temperature, max_tokens, seed)
    else:
        conversation = options.reopen_conversation(kept, loading, temperature, max_tokens, seed)
        effort = reasoning or conversation.reasoning
        changed = effort != conversation.reasoning or system not in (None, conversation.instructions)
        conversation.reasoning = effort
        conversation.instructions = system if system is not None else conversation.instructions
        again, total = conversation.to_read()
        if changed or (conversation.messages and again == total):  # or what was read is lost
            console.print(Text(_cost(conversation), style="dim"))
    if console.is_terminal:
        about = [conversation.runtime.folder.path.name, f"reasoning {conversation.reasoning}", "/help"]
        said = sum(message.channel != "analysis" for message in conversation.messages)
        about[1:1] = [f"session {name}, {said} messages"] if name else []
        console.print(Text(shown(" · ".join(about)), style="dim"))
    used = lasting_name(conversation.runtime.folder.path)
    with closing(_Chat(conversation, console, name, used)) as chatting, _input(console) as read:
        while (line := read()) is not None and chatting.take(line):
            pass


def _cost(conversation: "Conversation") -> str:
    """Return how many tokens must be read again. A change of settings changes the beginning of the prompt."""
    if not conversation.messages:
        return "The conversation is empty, so nothing is read again."
    again, total = conversation.to_read()
    share = f"all {total:,}" if again == total else f"{again:,} of the {total:,}"
    return f"With the next message the model reads {share} tokens so far again."


def _find_session(name: str | None, last: bool) -> "tuple[str | None, Session | None]":
    """Return the name to save the conversation under, and the session that is saved under it, if any."""
    if name is None and not last:
        return None, None

    from gptoss_mlx.sessions import check_name, read_session, session_names

    if name is not None:
        check_name(name)
    names = session_names()
    if name is None:
        if not names:
            raise SessionError("there is no session to resume; begin one with --session NAME")
        name = names[0]
    return name, read_session(name) if name in names else None


class _Chat:
    """Carries out the lines that the user types.

    With a session ``name`` it saves the transcript after every reply.
    """

    def __init__(self, conversation: "Conversation", console: Console, name: str | None, model: str) -> None:
        self._conversation = conversation
        self._console = console
        self._name = name
        self._model = model
        self._thinking: Thinking = "fold" if console.is_terminal else "show"

    def close(self) -> None:
        """Write to disk what was read."""
        options.close_prefixes(self._conversation.runtime)

    def _save(self) -> None:
        if self._name is not None:
            from gptoss_mlx.sessions import save_session

            save_session(self._name, self._conversation, self._model)

    def take(self, line: str) -> bool:
        """Carry out a command or send a message. Return False when the user quits."""
        command, _, rest = line.strip().partition(" ")
        if command == "/quit":
            return False
        if command.startswith("/"):
            self._command(command, rest.strip())
        elif command:
            self._send(line)
        return True

    def _command(self, command: str, rest: str) -> None:
        conversation = self._conversation
        match command, rest:
            case "/new", "":
                conversation.clear()
                self._save()
                self._say("The conversation is empty now.")
            case "/reasoning", "low" | "medium" | "high":
                conversation.reasoning = rest
                self._say(f"Reasoning: {rest}. {_cost(conversation)}")
            case "/reasoning", _:
                self._say(f"Reasoning: {conversation.reasoning}. Use /reasoning low, medium or high.")
            case "/system", _:
                conversation.instructions = rest or None
                self._say(f"Instructions {'set' if rest else 'cleared'}. {_cost(conversation)}")
            case "/thinking", "show" | "fold" | "hide":
                self._thinking = rest
                self._say(f"Thought: {self._thinking}.")
            case "/thinking", "":
                self._say(f"Thought: {self._thinking}.")
            case "/help", _:
                self._say(HELP)
            case _:
                self._say(f"Unknown command {shown(command)}; type /help for the commands.")

    def _send(self, line: str) -> None:
        from gptoss_mlx.cli.display import ReplyView

        view = ReplyView(self._console, thinking=self._thinking)
        self._conversation.on_prefill = view.reading
        try:
            with without_echo(), view, on_interrupt(self._conversation.cancel) as asked:
                events = self._conversation.send(line)
                with closing(events):  # type: ignore[type-var]
                    for event in events:
                        view.show(event)
        except GptOssError as error:
            self._say(str(error))
        finally:
            self._save()  # also when the terminal is closed
        options.tell_notice(self._conversation.runtime)
        if asked.number != signal.SIGINT:  # Ctrl-C stops the reply, not the chat
            asked.end()

    def _say(self, text: str) -> None:
        self._console.print(Text(text, style="dim"))


@contextmanager
def _input(console: Console) -> Iterator[Callable[[], str | None]]:
    """Yield a function that returns the user's next line, or None at the end. A terminal has editing and history."""
    at_terminal = sys.stdin.isatty() and console.is_terminal
    piped = LineReader(lambda size: os.read(sys.stdin.fileno(), size), "standard input")
    if at_terminal and isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # keeps the bytes in any locale

    def read() -> str | None:
        while True:
            try:
                return _typed() if at_terminal else piped.readline()
            except EOFError:
                print()
                return None
            except UsageError as error:
                if not at_terminal:
                    raise
                console.print(Text(str(error), style="dim"))
            except KeyboardInterrupt:
                print()  # Ctrl-C discards the line being typed; Ctrl-D quits

    with _history() if at_terminal else nullcontext():
        yield read


def _typed() -> str:
    """Return a line from the terminal. Raises UsageError when it cannot be decoded."""
    return decoded(input("> ").encode(sys.stdin.encoding, "surrogateescape"), "the line")


@contextmanager
def _history() -> Iterator[None]:
    """Load the history of typed lines, and save it on leaving the block. Ignore errors: a chat works without it."""
    import readline

    from gptoss_mlx.home import history_file

    path = history_file()
    readline.set_history_length(1000)
    with suppress(OSError):
        readline.read_history_file(path)
    try:
        yield
    finally:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replaced_whole(path) as partial:
                readline.write_history_file(partial)
