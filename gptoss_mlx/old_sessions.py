"""Read the sessions that earlier versions kept, each a folder with ``session.json``. Nothing writes them any more."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptoss_mlx.errors import SessionError

FIELDS = {"role": None, "content": None, "name": None, "recipient": None, "channel": None, "content_type": None}


@dataclass(frozen=True)
class OldSession:
    """A session's settings, its messages without their token ids, and when it was saved, in UTC."""

    settings: dict[str, Any]
    messages: list[dict[str, Any]]
    saved: str


def read_old_session(path: Path) -> OldSession:
    """Read a ``session.json``. Raises SessionError if it cannot be read or is damaged."""
    try:
        raw = json.loads(path.read_bytes())
        settings = {name: raw[name] for name in ("model", "model_hash", "reasoning", "instructions", "date")}
        messages = [_message(one) for one in raw["messages"]]
        return OldSession(settings | {"temperature": None}, messages, str(raw["saved"]))
    except OSError as error:
        raise SessionError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise SessionError(f"{path}: not a session, or damaged") from error


def _message(raw: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(raw["content"], str) or raw["role"] not in ("user", "assistant", "tool"):
        raise ValueError("not a message of a conversation")
    return {name: raw.get(name) for name in FIELDS} | {"constrained": bool(raw.get("constrained")), "ids": None}
