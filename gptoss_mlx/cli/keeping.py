"""Keep a conversation in the history, or say once why it is not kept. No chat ends because of it."""

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from gptoss_mlx.errors import HistoryError, UsageError, shown

if TYPE_CHECKING:
    from gptoss_mlx.conversation import Conversation
    from gptoss_mlx.history import History, Kept, Program


Tell = Callable[[str], None]


def tell(text: str) -> None:
    """Print a notice on standard error."""
    print(shown(text), file=sys.stderr)


def open_history(tell: Tell) -> "History | None":
    """Return the history, or None after telling why it cannot be used."""
    from gptoss_mlx.history import History

    try:
        history = History()
    except HistoryError as error:
        tell(f"{error}. This conversation is not kept.")
        return None
    for notice in history.notices:
        tell(notice)
    return history


class Keeper:
    """Keeps one conversation after another. ``kept`` is the present one as it was saved last, None before that."""

    def __init__(self, history: "History | None", tell: Tell, program: "Program" = "chat") -> None:
        self._history = history
        self._tell = tell
        self._program = program
        self._failed = False
        self.kept: Kept | None = None
        self.name: str | None = None

    def resume(self, name: str | None) -> "Kept | None":
        """Return the conversation of that name, None if there is none yet, or without a name the one changed last: a
        chat goes on with a chat, ``run`` with whichever it is.

        If another chat goes on with it, this one gets a copy, and says so. If the history cannot be read, it says that,
        and keeps nothing.
        """
        self.name = name
        if self._history is None:
            return None
        within: Program | None = "chat" if self._program == "chat" else None
        try:
            id = self._history.latest(within) if name is None else self._history.find(name)
            kept = None if id is None else self._history.read(id)
            held = id is not None and self._history.hold(id)
        except HistoryError as error:
            self._tell(f"{error}. This conversation is not kept.")
            self._history = None
            return None
        if kept is None:
            return None
        if not held:
            name = None if kept.name is None else self._free(kept.name)
            self._tell(
                f"{kept.name or 'The conversation'} is open in another chat; this one goes on as {name or 'a copy'}."
            )
            kept = replace(kept, id=0, began="", name=name)
        self.kept = kept
        self.name = kept.name
        return kept

    def save(self, conversation: "Conversation") -> None:
        """Save the conversation, unless nothing was ever said in it. Tell if that fails; a later save retries."""
        if self._history is None or not (conversation.messages or self.kept is not None):
            return
        from gptoss_mlx.sessions import kept

        try:
            before = self.kept
            now = replace(kept(conversation, self._program, before), name=self.name)
            self.kept = self._history.save(now)
            if before is None or before.id != self.kept.id:
                self._history.hold(self.kept.id)
            self._failed = False
        except HistoryError as error:
            if not self._failed:
                self._tell(f"{error}. The conversation is not saved.")
            self._failed = True

    def begin(self) -> None:
        """Go on with a new conversation. The one before stays kept."""
        self.kept = None
        self.name = None

    def begin_compacted(self, conversation: "Conversation") -> None:
        """Go on with a new conversation under the name of the one before, which loses it."""
        name = self.name
        if name is not None and self.kept is not None and self._history is not None:
            self.kept = self._history.save(replace(self.kept, name=None))
        self.begin()
        self.name = name
        self.save(conversation)

    def rename(self, name: str, conversation: "Conversation") -> None:
        """Keep the conversation under ``name``. Raises UsageError for a name that is taken or cannot be one, and
        HistoryError without a history."""
        from gptoss_mlx.sessions import check_name

        check_name(name)
        if self._history is None:
            raise HistoryError("there is no history to keep it in")
        if name != self.name and self._history.find(name) is not None:
            raise UsageError(f"there is a conversation '{name}' already")
        self.name = name
        self.save(conversation)

    def names(self) -> list[str]:
        """Return the names of the kept conversations."""
        return self._history.names() if self._history is not None else []

    def close(self) -> None:
        """Close the history."""
        if self._history is not None:
            self._history.close()

    def _free(self, name: str) -> str:
        assert self._history is not None
        number = 2
        while self._history.find(f"{name}-{number}") is not None:
            number += 1
        return f"{name}-{number}"
