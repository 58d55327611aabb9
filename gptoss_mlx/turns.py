"""The history of a chat, and what stays of it when a reply or a turn does not come to its end.

Knows messages and calls. Knows no model, and not how a reply is generated.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile

from gptoss_mlx.events import ToolCall
from gptoss_mlx.harmony import Message, Tokenizer, without


@dataclass
class Turn:
    """The state from which a reply began, or several with the calls between them. It is returned to if they end before
    they are ``finished`` and the user saw no answer text."""

    messages: list[Message]
    pending: list[ToolCall]
    calls: int
    finished: bool = False


@dataclass
class Turns:
    """The history. ``pending`` are the calls of the last reply that have no result yet, ``calls`` how many there were
    since the last user message."""

    tokenizer: Tokenizer
    messages: list[Message] = field(default_factory=list)
    pending: list[ToolCall] = field(default_factory=list)
    calls: int = 0

    def settled(self) -> list[Message]:
        """Return the history without the pending calls, which is what the next user message follows."""
        return self.without([call.message for call in self.pending])

    def without(self, removed: Collection[Message]) -> list[Message]:
        """Return the history without ``removed``."""
        return without(self.messages, removed, self.tokenizer)

    def state(self, *, finished: bool = False) -> Turn:
        """Return the present state."""
        return Turn(list(self.messages), self.pending, self.calls, finished)

    def return_to(self, turn: Turn) -> None:
        """Forget what came after ``turn`` began."""
        self.messages, self.pending, self.calls = turn.messages, turn.pending, turn.calls

    @contextmanager
    def reply_to(self, message: Message, unanswered: Collection[ToolCall]) -> Iterator[Turn]:
        """Add ``message`` to the history; the calls ``unanswered`` will get no result. After a reply that does not
        finish, keep what the user saw of it, or return to the state before it if that is nothing."""
        turn = self.state()
        self.messages = self.without([call.message for call in unanswered])
        start = len(self.messages)
        self.messages.append(message)
        self.pending = []
        if message.role == "user":
            self.calls = 0
        try:
            yield turn
        finally:
            if not turn.finished:
                last = takewhile(lambda message: message.role == "assistant", reversed(self.messages))
                self.messages = self.without([call for call in last if call.recipient])  # they will get no result
                if not any(map(_is_visible, self.messages[start:])):
                    self.return_to(turn)

    def forget_since(self, before: Turn, first: Message) -> None:
        """Keep of the messages since ``before`` the ``first`` and those that the user saw, or none."""
        old = {id(message) for message in before.messages}
        new = [message for message in self.messages if id(message) not in old]
        self.pending = []
        if any(map(_is_visible, new)):
            self.messages = self.without([one for one in new if one is not first and not _is_visible(one)])
        else:
            self.return_to(before)


def _is_visible(message: Message) -> bool:
    """Return whether the user saw ``message`` in a reply."""
    to_user = message.role == "assistant" and message.channel != "analysis" and message.recipient is None
    return to_user and bool(message.content)
