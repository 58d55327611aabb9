"""Functions as a Python caller declares them, and the arguments a model calls them with. Runs nothing."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from gptoss_mlx.errors import UsageError
from gptoss_mlx.harmony import Function
from gptoss_mlx.reply import Call


def read_declaration(declared: Function | Mapping[str, Any]) -> Function:
    """Return a function declared in harmony's form or as JSON of OpenAI's chat or responses API. Raises UsageError."""
    if not isinstance(declared, Function):
        inner = declared.get("function", declared) if isinstance(declared, Mapping) else None
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise UsageError(f"a function declaration has no name: {str(declared)[:80]!r}")
        strict = inner.get("strict") if isinstance(inner.get("strict"), bool) else None
        declared = Function(inner["name"], inner.get("description") or "", inner.get("parameters"), strict)
    if not re.fullmatch(r"[^\s<>|{]+", declared.name):
        raise UsageError(f"a function cannot be called {declared.name!r:.80}; use letters, digits, _ and -")
    if not isinstance(declared.description, str):
        raise UsageError(f"the description of function '{declared.name}' is not text")
    if not isinstance(declared.parameters, Mapping | None):
        raise UsageError(f"the parameters of function '{declared.name}' are no JSON schema")
    return declared


def read_arguments(call: Call, declared: Iterable[str]) -> dict[str, Any]:
    """Return the call's arguments, the text of a built-in tool as ``code``. Raises ValueError, with a message for the
    model, if the call cannot be made."""
    if call.custom:
        return {"code": call.arguments}
    if not call.offered:
        known = ", ".join(sorted(declared)) or "none"
        raise ValueError(f"Error: there is no tool {call.message.recipient!r}; available: {known}")
    try:
        arguments = json.loads(call.arguments)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"Error: the arguments are not valid JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise ValueError("Error: the arguments are not a JSON object")
    return arguments
