"""Conversations that outlive the program. Knows their files.

A session is a folder under ``home.sessions_dir`` that holds the transcript, ``session.json``. What the model has read
of it lies among the runtime's prefixes. Where that is lost the model reads the transcript again.
"""

import json
import re
import shutil
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptoss_mlx.conversation import Conversation
from gptoss_mlx.errors import SessionError, StorageError, UsageError
from gptoss_mlx.files import replaced_whole
from gptoss_mlx.harmony import Message
from gptoss_mlx.harmony.messages import Effort
from gptoss_mlx.home import sessions_dir

if TYPE_CHECKING:
    from gptoss_mlx.link.client import AnyRuntime

VERSION = 1


@dataclass(frozen=True)
class Session:
    """A saved transcript. ``model`` is the name of the model it was held with, and ``model_hash`` that model's hash."""

    name: str
    model: str
    model_hash: str
    reasoning: Effort
    instructions: str | None
    date: str
    messages: list[dict[str, Any]]
    saved: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    version: int = VERSION


def session_names() -> list[str]:
    """Return the names of the saved sessions, the latest first."""
    folder = sessions_dir()
    found = [path.parent for path in folder.glob("*/session.json")] if folder.is_dir() else []
    return [path.name for path in sorted(found, key=lambda path: -(path / "session.json").stat().st_mtime)]


def read_session(name: str) -> Session:
    """Load a session's transcript. Raises SessionError if it is missing, damaged or from another version."""
    path = _folder(name) / "session.json"
    try:
        raw = json.loads(path.read_bytes())
        if raw["version"] != VERSION:
            raise SessionError(f"{path}: written by another version of gptoss-mac; update it, or remove the session")
        session = Session(**raw)
        for message in session.messages:
            _message(message)
    except FileNotFoundError as error:
        raise SessionError(f"no session '{name}'; `gptoss-mac sessions list` shows those there are") from error
    except OSError as error:
        raise SessionError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise SessionError(f"{path}: damaged; remove it with `gptoss-mac sessions rm {name}`") from error
    return session


def save_session(name: str, conversation: Conversation, model: str) -> None:
    """Write the transcript without pending calls. The file is replaced whole. Raises StorageError."""
    session = Session(
        name=name,
        model=model,
        model_hash=conversation.runtime.hash,
        reasoning=conversation.reasoning,
        instructions=conversation.instructions,
        date=conversation.date,
        messages=[asdict(message) for message in conversation.settled_messages()],
    )
    folder = _folder(name)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with replaced_whole(folder / "session.json") as partial:
            partial.write_text(json.dumps(asdict(session)), encoding="ascii")
    except OSError as error:
        raise StorageError(f"{folder}: the session cannot be saved ({error.strerror})") from error


def open_session(session: Session, runtime: "AnyRuntime", **options: Any) -> Conversation:
    """Return the conversation to resume. ``options`` are Conversation's ``sampling`` and ``max_tokens``."""
    conversation = Conversation(
        runtime,
        reasoning=session.reasoning,
        instructions=session.instructions,
        date=session.date,
        **options,
    )
    # Without its ids a message is rendered again from its text, because another model may have other ids.
    foreign = {} if session.model_hash == runtime.hash else {"ids": None}
    conversation.messages = [_message(raw | foreign) for raw in session.messages]
    return conversation


def remove_session(name: str) -> None:
    """Delete a session. Raises SessionError if there is none."""
    folder = _folder(name)
    if not folder.is_dir():
        raise SessionError(f"no session '{name}'; `gptoss-mac sessions list` shows those there are")
    shutil.rmtree(folder)


def check_name(name: str) -> None:
    """Raise UsageError if ``name`` cannot name a session."""
    _folder(name)


def _folder(name: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise UsageError(f"'{name}' cannot name a session; use letters, digits, '.', '_' and '-'")
    return sessions_dir() / name


def _message(raw: dict[str, Any]) -> Message:
    message = Message(**raw)
    if not isinstance(message.content, str) or message.role not in ("user", "assistant", "tool"):
        raise ValueError("not a message of a conversation")
    return message if message.ids is None else replace(message, ids=tuple(map(int, message.ids)))
