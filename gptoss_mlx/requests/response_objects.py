"""The objects of OpenAI's responses API that a reply becomes: its items, and the response that holds them.

The module knows their shapes, whether they are written whole or grow while a reply arrives. It knows nothing of bodies
that come in.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, Literal

from gptoss_mlx.reply import Call, Piece, Reply
from gptoss_mlx.requests.request import Thoughts, call_key

Item = dict[str, Any]
Status = Literal["in_progress", "completed", "incomplete"]

PHASES = {"preamble": "commentary", "answer": "final_answer"}

_SEAL = "gptoss-mac:"
"""Begins a thought in the form that clients call encrypted and send back unread. It is not encrypted: what the client
may not see is not sent to it in any form."""


def seal(thought: str) -> str:
    """Return a thought in the form that clients send back without showing it."""
    return _SEAL + base64.b64encode(thought.encode("utf-8", "replace")).decode()


def unseal(sealed: str) -> str | None:
    """Return the thought that ``seal`` was given, or None if another program made ``sealed``."""
    if not sealed.startswith(_SEAL):
        return None
    try:
        return base64.b64decode(sealed.removeprefix(_SEAL), validate=True).decode()
    except (binascii.Error, ValueError):
        return None


def reasoning_item(id: str, text: str, thoughts: Thoughts, sealed: bool) -> Item:
    """Return the item of a thought, as its client wants to see it. A ``sealed`` thought can be sent back."""
    item: Item = {"id": id, "type": "reasoning", "summary": []}
    if text and thoughts == "summary":
        item["summary"] = [summary_part(text)]
    elif text:
        item["content"] = [thought_part(text)]
    if sealed:
        item["encrypted_content"] = seal(text)
    return item


def message_item(
    id: str, text: str | None, section: str, status: Status, logprobs: Sequence[Mapping[str, Any]] = ()
) -> Item:
    """Return the item of an answer, or of what is said before a call. It has no part yet if ``text`` is None."""
    content = [] if text is None else [text_part(text, logprobs)]
    about = {"id": id, "type": "message", "role": "assistant", "status": status, "phase": PHASES[section]}
    return about | {"content": content}


def call_item(id: str, call_id: str, name: str, arguments: str, status: Status, *, custom: bool = False) -> Item:
    """Return the item of a call. A ``custom`` tool is given text."""
    if custom:
        return {"id": id, "type": "custom_tool_call", "call_id": call_id, "name": name, "input": arguments}
    about = {"id": id, "type": "function_call", "status": status, "call_id": call_id}
    return about | {"name": name, "arguments": arguments}


def text_part(text: str, logprobs: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(logprobs)}


def thought_part(text: str) -> dict[str, Any]:
    return {"type": "reasoning_text", "text": text}


def summary_part(text: str) -> dict[str, Any]:
    return {"type": "summary_text", "text": text}


def item_id(id: str, section: str, number: int) -> str:
    """Return the id of the ``number``th item of response ``id``."""
    return f"{ {'thought': 'rs', 'call': 'fc'}.get(section, 'msg') }_{id}_{number}"


def call_id(id: str, number: int) -> str:
    """Return the id of the ``number``th call of response ``id``."""
    return f"call_{call_key(id, 0, number)}"


def items(reply: Reply, id: str, thoughts: Thoughts, sealed: bool = False) -> list[Item]:
    """Return the items of a whole reply. Only the last one is incomplete if the reply was cut off."""
    shown = [part for part in reply.parts if thoughts != "hidden" or _section(part) != "thought"]
    found = []
    calls = (call_id(id, number) for number in count())
    for number, part in enumerate(shown):
        cut_off = reply.cut_off and number + 1 == len(shown)
        status: Status = "incomplete" if cut_off else "completed"
        own = item_id(id, _section(part), number)
        if isinstance(part, Call):
            found.append(call_item(own, next(calls), part.name, part.arguments, "completed", custom=part.custom))
        elif part.section == "thought":
            found.append(reasoning_item(own, part.text, thoughts, sealed))
        else:
            found.append(message_item(own, part.text, part.section, status))
    return found


def response(id: str, created: int, model: str, repeated: dict[str, Any], status: str) -> dict[str, Any]:
    """Return the ``response`` object before anything has come. ``repeated`` is the request's."""
    return {
        "id": f"resp_{id}",
        "object": "response",
        "created_at": created,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": [],
        "parallel_tool_calls": False,
        **repeated,
        "usage": None,
    }


def ended(reply: Reply) -> dict[str, Any]:
    """Return the fields of the ``response`` object that say how ``reply`` has ended."""
    reasons = {"length": "max_output_tokens", "repetition": "repetition"}
    return {
        "status": "incomplete" if reply.cut_off else "completed",
        "incomplete_details": {"reason": reasons[reply.reason]} if reply.cut_off else None,
        "usage": {
            "input_tokens": reply.prompt_tokens,
            "input_tokens_details": {"cached_tokens": reply.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": reply.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": reply.thought_tokens},
            "total_tokens": reply.prompt_tokens + reply.completion_tokens,
        },
    }


def _section(part: Piece | Call) -> str:
    return part.section if isinstance(part, Piece) else "call"
