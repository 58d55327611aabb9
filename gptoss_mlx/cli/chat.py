"""``gptoss-mac chat``: talk with a model, its thought visible."""

import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from gptoss_mlx.cli import options
from gptoss_mlx.cli.terminal import on_interrupt, without_echo
from gptoss_mlx.errors import GptOssError

if TYPE_CHECKING:
    from gptoss_mlx.conversation import Conversation

HELP = """\
/help                     this list
/new                      forget the conversation
/reasoning low|medium|high  how long to think
/system [TEXT]            set or clear the instructions
/thinking                 show or hide the thought
/quit                     leave, as Ctrl-D does
Ctrl-C stops a reply and keeps what came."""


def chat(
    model: options.Model = "20b",
    reasoning: options.Effort = options.Reasoning.medium,
    system: options.System = None,
    temperature: options.Temperature = None,
    max_tokens: options.MaxTokens = None,
    seed: options.Seed = None,
) -> None:
    """Chat with a model. Its thought streams before the answer; /help lists what else can be typed."""
    conversation = options.start_conversation(model, reasoning, system, temperature, max_tokens, seed)
    console = Console(highlight=False)
    chatting = _Chat(conversation, console)
    if console.is_terminal:
        console.print(Text(f"{conversation.runtime.folder.path.name} · reasoning {reasoning} · /help", style="dim"))
    with _Input(console) as read:
        while (line := read()) is not None and chatting.take(line):
            pass


class _Chat:
    """What a line typed does."""

    def __init__(self, conversation: "Conversation", console: Console) -> None:
        self._conversation = conversation
        self._console = console
        self._thinking = True

    def take(self, line: str) -> bool:
        """Obey a command or send a message; False when the chat is over."""
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
                self._say("A new conversation.")
            case "/reasoning", "low" | "medium" | "high":
                conversation.reasoning = rest
                self._say(f"Reasoning: {rest}. The conversation is read anew at the next message.")
            case "/reasoning", _:
                self._say(f"Reasoning: {conversation.reasoning}. Use /reasoning low, medium or high.")
            case "/system", _:
                conversation.instructions = rest or None
                self._say("Instructions set." if rest else "Instructions cleared.")
            case "/thinking", "":
                self._thinking = not self._thinking
                self._say(f"The thought is {'shown' if self._thinking else 'hidden'}.")
            case "/help", _:
                self._say(HELP)
            case _:
                self._say(f"No command {command}; /help lists them.")

    def _send(self, line: str) -> None:
        from gptoss_mlx.cli.display import ReplyView

        view = ReplyView(self._console, thinking=self._thinking)
        try:
            with without_echo(), view, on_interrupt(self._conversation.cancel):
                for event in self._conversation.send(line):
                    view.show(event)
        except GptOssError as error:
            self._say(str(error))

    def _say(self, text: str) -> None:
        self._console.print(Text(text, style="dim"))


class _Input:
    """Lines from the user: edited and with history at a terminal, plain otherwise."""

    def __init__(self, console: Console) -> None:
        self._interactive = sys.stdin.isatty() and console.is_terminal

    def __enter__(self) -> Callable[[], str | None]:
        if self._interactive:
            _open_history()
        return self._read

    def __exit__(self, *_: object) -> None:
        if self._interactive:
            _save_history()

    def _read(self) -> str | None:
        while True:
            try:
                return input("> ") if self._interactive else input()
            except EOFError:
                if self._interactive:
                    print()
                return None
            except KeyboardInterrupt:
                print()  # clears the line being typed; Ctrl-D leaves


def _open_history() -> None:
    import readline

    from gptoss_mlx.home import history_file

    readline.set_history_length(1000)
    try:
        readline.read_history_file(history_file())
    except OSError:
        return  # none yet


def _save_history() -> None:
    import readline

    from gptoss_mlx.home import history_file

    path = history_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        readline.write_history_file(path)
        os.chmod(path, 0o600)
    except OSError:
        return  # a chat is not worth an error for its history
