"""A chat under way: carry out the lines that the user types. Knows the terminal only as a console to print on."""

import gc
import signal
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.filesize import decimal

from gptoss_mlx.attachments import Attachment, mentioned, read_attachment, with_attachments
from gptoss_mlx.cli import options
from gptoss_mlx.cli.chat_commands import ALIASES, help_text
from gptoss_mlx.cli.display import ReplyView, paint_of
from gptoss_mlx.cli.keeping import Keeper
from gptoss_mlx.cli.terminal import on_interrupt, without_echo
from gptoss_mlx.cli.tools import Consent
from gptoss_mlx.conversation import Conversation
from gptoss_mlx.errors import GptOssError, UsageError, shown
from gptoss_mlx.events import Done
from gptoss_mlx.harmony import Message
from gptoss_mlx.screen.page import Page, Thinking
from gptoss_mlx.screen.style import DIM, Span

if TYPE_CHECKING:
    from gptoss_mlx.cli.options import Loading
    from gptoss_mlx.history import Kept

SUM_UP = (
    "Sum up our conversation so far, so that we can go on from your summary alone: what I asked for, what was decided, "
    "names, numbers and code that are still needed, and what is left to do."
)
NEARLY_FULL = 10
"""A context with less than one part in so many left is nearly full."""


class Chat:
    """Carries out lines. ``default`` is what the next prompt begins with."""

    def __init__(
        self,
        conversation: Conversation,
        console: Console,
        keeper: Keeper,
        loading: "Loading",
        thinking: Thinking,
        consent: Consent,
        *,
        interactive: bool,
    ) -> None:
        """``interactive``: a user types the lines."""
        self._conversation = conversation
        self._console = console
        self._keeper = keeper
        self._loading = loading
        self._thinking = thinking
        self._consent = consent
        self._interactive = interactive
        self._attached: list[Attachment] = []
        self.default = ""

    def close(self) -> None:
        """Write to disk what was read, and close the history."""
        self._keeper.close()
        if hasattr(self, "_conversation"):  # not if a change of models was interrupted
            options.close_prefixes(self._conversation.runtime)

    def take(self, line: str) -> bool:
        """Carry out a command or send a message. Return False when the user quits.

        What cannot be done is said to a user, whose Ctrl-C ends a command and not the chat. Lines from a pipe raise
        GptOssError, which ends the program.
        """
        try:
            return self._take(line)
        except GptOssError as error:
            if not self._interactive:
                raise
            self.say(str(error))
            return True
        except KeyboardInterrupt:
            if not self._interactive or not hasattr(self, "_conversation"):  # without a model no chat goes on
                raise
            self.say("Stopped.")
            return True

    def say(self, text: str) -> None:
        """Print a dim line."""
        self._console.file.write(paint_of(self._console)([Span(text, DIM), Span("\n")]))
        self._console.file.flush()

    def status(self) -> str:
        """Return the line below the input: model, effort, context and memory."""
        about = [self._conversation.runtime.folder.path.name, self._conversation.reasoning]
        about += [f"session {self._keeper.name}"] if self._keeper.name else []
        about += [f"{len(self._attached)} attached"] if self._attached else []
        return shown(" · ".join([*about, *self._room(), "/help"]))

    def resume(self, kept: "Kept") -> None:
        """Show at a terminal where the conversation that was ``kept`` goes on, and say what must be read again if that
        is more than usual."""
        if self._console.is_terminal:
            self._show_last_exchange()
        again, total = self._conversation.to_read()
        settings = (self._conversation.reasoning, self._conversation.instructions)
        if settings != (kept.reasoning, kept.instructions) or (self._conversation.messages and again == total):
            self.say(self._cost())

    def _show_last_exchange(self) -> None:
        """Print the last message of the user and its answer."""
        at = self._last_message()
        if at is None:
            return
        asked, *answers = self._conversation.messages[at:]
        self.say(f"> {_beginning(str(asked.content), 400)}")
        page = Page(paint_of(self._console), lambda: self._console.width, "hide")
        for message in answers:
            if _is_answer(message):
                page.answer(str(message.content))
        self._console.file.write(page.draw(last=True))
        self._console.file.flush()

    def _take(self, line: str) -> bool:
        text = line.strip()
        if not text.startswith("/") or text.startswith("//"):
            if text:
                self._send(line.replace("//", "/", 1) if text.startswith("//") else line)
            return True
        command, _, rest = text.partition(" ")
        command = ALIASES.get(command, command)
        if command == "/quit":
            return False
        self._command(command, rest.strip())
        return True

    def _command(self, command: str, rest: str) -> None:
        match command, rest:
            case "/help", _:
                self.say(help_text())
            case "/new", "":
                self._conversation.clear()
                self._keeper.begin()
                self.say("This is a new conversation. The one before is kept." if self._keeper else "")
            case "/reasoning", "" | "low" | "medium" | "high":
                self._set_reasoning(rest)
            case "/system", _:
                self._set_system(rest)
            case "/model", _:
                self._set_model(rest)
            case "/tools", "" | "allow" | "ask":
                self._set_consent(rest)
            case "/attach", _:
                self._attach(rest)
            case "/retry", "":
                self._retry()
            case "/undo", "":
                self._undo()
            case "/edit", "":
                self._edit()
            case "/save", _:
                self._save(rest)
            case "/copy", "":
                self._copy()
            case "/tokens", "":
                self.say(f"{', '.join(self._room())}. {self._cost()}")
            case "/compact", "":
                self._compact()
            case "/thinking", "" | "show" | "fold" | "hide":
                self._thinking = rest or self._thinking
                self.say(f"Thought: {self._thinking}.")
            case _:
                self.say(f"Unknown command {shown(f'{command} {rest}'.strip())}; type /help for the commands.")

    def _set_reasoning(self, effort: str) -> None:
        if not effort:
            self.say(f"Reasoning: {self._conversation.reasoning}.")
            return
        self._conversation.reasoning = effort  # type: ignore[assignment]
        self._keep()
        self.say(f"Reasoning: {effort}. {self._cost()}")

    def _set_system(self, text: str) -> None:
        if not text:
            self.say(self._conversation.instructions or "There are no instructions.")
            return
        self._conversation.instructions = None if text == "off" else text
        self._keep()
        self.say(f"Instructions {'cleared' if text == 'off' else 'set'}. {self._cost()}")

    def _set_consent(self, choice: str) -> None:
        if choice:
            self._consent.always = choice == "allow"
            self._consent.sources.clear()
        tools = [f"{tool.name}, of {tool.source}" for tool in self._conversation.tools]
        if not tools:
            self.say("There are no tools; begin the chat with --tools or --mcp.")
            return
        self.say("\n".join(map(shown, tools)))
        self.say("Calls are made without asking." if self._consent.always else "Each call is asked about.")

    def _set_model(self, name: str) -> None:
        """Go on with another model. The present one is given up first, because both may not fit, and comes back if the
        other cannot be loaded."""
        old = self._conversation
        present = str(old.runtime.folder.path)
        if not name:
            self.say(shown(present))
            return
        name = options.obtained(name, self._loading.yes)
        kept = ("reasoning", "instructions", "date", "tools", "confirm")
        settings: dict[str, Any] = {name: getattr(old, name) for name in kept}
        messages = [replace(message, ids=None) for message in old.settled_messages()]
        temperature, max_tokens = old.sampling.temperature, old.max_tokens
        options.close_prefixes(old.runtime)
        del old, self._conversation
        gc.collect()
        problem = None
        for candidate in (name, present):
            try:
                runtime = options.open_model(replace(self._loading, model=candidate, trace_experts=None))
                break
            except GptOssError as error:
                if candidate == present:
                    raise
                problem = error
        sampling = runtime.sampling(temperature=temperature)
        self._conversation = Conversation(runtime, sampling=sampling, max_tokens=max_tokens, **settings)
        self._conversation.messages = messages
        self._keep()
        self.say(str(problem) if problem else f"Model: {shown(runtime.folder.path.name)}. {self._cost()}")

    def _attach(self, name: str) -> None:
        if not name:
            files = [f"{file.name}, {file.nbytes:,} bytes" for file in self._attached]
            self.say("\n".join(files) or "Nothing is attached.")
            return
        file = read_attachment(name)
        self._attached.append(file)
        self.say(shown(f"{file.name}, {file.nbytes:,} bytes, goes with the next message."))

    def _edit(self) -> None:
        from gptoss_mlx.cli.prompt import edited

        if not self._interactive:
            raise UsageError("/edit needs a terminal")
        self.default = edited(self.default)

    def _save(self, name: str) -> None:
        if not name:
            self.say(shown(f"Kept as {self._keeper.name}.") if self._keeper.name else "It has no name yet.")
            return
        self._keeper.rename(name, self._conversation)
        self.say(shown(f"Kept as {name}."))

    def _copy(self) -> None:
        from gptoss_mlx.cli.clipboard import copy

        answers = [message for message in self._conversation.messages if _is_answer(message)]
        if not answers:
            self.say("There is no answer yet.")
            return
        self.say(f"Copied {len(str(answers[-1].content)):,} characters, through {copy(str(answers[-1].content))}.")

    def _undo(self) -> None:
        at = self._last_message()
        if at is None:
            self.say("There is nothing to undo.")
            return
        asked = self._conversation.messages[at]
        self._conversation.messages = self._conversation.messages[:at]
        self._keep()
        self.say(f"Forgotten: {_beginning(str(asked.content), 60)}")

    def _retry(self) -> None:
        """Answer the last message again. If that does not come to an answer, the one before stays."""
        at = self._last_message()
        if at is None:
            self.say("There is no message to answer again.")
            return
        before = self._conversation.messages
        self._conversation.messages = before[:at]
        try:
            self._reply_to(str(before[at].content))
        finally:
            if len(self._conversation.messages) <= at:
                self._conversation.messages = before
            self._keep()

    def _compact(self) -> None:
        if not self._conversation.messages:
            self.say("There is nothing to sum up.")
            return
        self._keep()
        at = len(self._conversation.settled_messages())
        reason = self._reply_to(SUM_UP)
        summary = self._conversation.messages[at:]
        if reason != "stop" or not any(map(_is_answer, summary)):
            self._conversation.messages = self._conversation.messages[:at]
            self.say("There is no summary, so nothing has changed.")
            return
        self._conversation.messages = summary
        self._keeper.begin_compacted(self._conversation)
        self.say(f"The conversation goes on from this summary. {', '.join(self._room())}.")

    def _send(self, line: str) -> None:
        files = [*self._attached, *map(read_attachment, mentioned(line))]
        for file in files[len(self._attached) :]:
            self.say(shown(f"attached {file.name}, {file.nbytes:,} bytes"))
        self._attached = []
        try:
            self._reply_to(with_attachments(line, files))
        finally:
            self._keep()  # also when the terminal is closed
        available = self._conversation.runtime.config.max_position_embeddings
        left = available - len(self._conversation.next_prompt())
        if left < available / NEARLY_FULL:
            self.say(f"Only {max(0, left):,} tokens of the context are left. /compact goes on from a summary.")

    def _reply_to(self, text: str) -> str:
        """Send a message and show the reply. Return why it ended."""
        view = ReplyView(self._console, thinking=self._thinking, about=self._room)
        self._conversation.on_prefill = view.reading
        self._consent.pause = view.pause
        self._consent.stopped = lambda: self._conversation.cancelled
        reason = "cancelled"
        with without_echo(), on_interrupt(self._conversation.cancel) as asked, view:
            events = self._conversation.send(text)
            with closing(events):  # type: ignore[type-var]
                for event in events:
                    view.show(event)
                    reason = event.reason if isinstance(event, Done) else reason
        options.tell_notice(self._conversation.runtime)
        if asked.number not in (None, signal.SIGINT):  # Ctrl-C stops the reply, not the chat
            self._keep()
            asked.end()
        return reason

    def _keep(self) -> None:
        self._keeper.save(self._conversation)

    def _room(self) -> list[str]:
        """Return how much of the context is used, and how much memory."""
        used = len(self._conversation.next_prompt())
        available = self._conversation.runtime.config.max_position_embeddings
        room = [f"context {used:,} of {available:,}"]
        if self._conversation.runtime.row_memory is not None:  # else the memory is a server's
            import mlx.core as mx

            room.append(decimal(mx.get_active_memory()))
        return room

    def _cost(self) -> str:
        """Return how many tokens must be read again. A change of settings changes the beginning of the prompt."""
        if not self._conversation.messages:
            return "The conversation is empty, so nothing is read again."
        again, total = self._conversation.to_read()
        share = f"all {total:,}" if again == total else f"{again:,} of the {total:,}"
        return f"With the next message the model reads {share} tokens so far again."

    def _last_message(self) -> int | None:
        """Return where the user's last message stands."""
        messages = self._conversation.messages
        return next((n for n in range(len(messages) - 1, -1, -1) if messages[n].role == "user"), None)


def _is_answer(message: Message) -> bool:
    return message.role == "assistant" and message.channel != "analysis" and message.recipient is None


def _beginning(text: str, most: int) -> str:
    line = shown(" ".join(text.split()))
    return line if len(line) <= most else f"{line[: most - 1]}…"
