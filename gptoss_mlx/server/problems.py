"""What a client is told when a request cannot be answered: a status, and the error object of its API.

The module knows our errors and both APIs' objects. It knows nothing of how a request is answered.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gptoss_mlx.errors import (
    ContextLengthError,
    GptOssError,
    GrammarError,
    HarmonyError,
    MemoryBudgetError,
    ModelNotInstalledError,
    RequestError,
    UsageError,
)


@dataclass(eq=False)
class Problem(Exception):
    """A request that is answered with an error. ``code`` and ``param`` are OpenAI's: a name for the error, and the
    field at fault."""

    status: int
    message: str
    code: str | None = None
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    @property
    def openai(self) -> dict[str, Any]:
        """Return OpenAI's error object."""
        kind = _OPENAI_TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"message": self.message, "type": kind, "param": self.param, "code": self.code}

    @property
    def anthropic(self) -> dict[str, Any]:
        """Return Anthropic's error object."""
        kind = _ANTHROPIC_TYPES.get(self.status, "api_error" if self.status >= 500 else "invalid_request_error")
        return {"type": kind, "message": self.message}


_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def problem_of(error: Exception) -> Problem:
    """Return what a client is told of ``error``. Of an error that is none of ours, only that there was one."""
    match error:
        case Problem():
            return error
        case RequestError():
            return Problem(400, str(error), "invalid_value", error.param)
        case ContextLengthError():
            return Problem(400, str(error), "context_length_exceeded")
        case MemoryBudgetError():
            return Problem(400, str(error), "out_of_memory")
        case ModelNotInstalledError():
            return Problem(404, str(error), "model_not_found", "model")
        case UsageError() | HarmonyError() | GrammarError():
            return Problem(400, str(error), "invalid_value")
        case GptOssError():
            return Problem(500, str(error), "server_error")
        case _:
            return Problem(500, "the server failed; its log says where", "server_error")


def busy(seconds: float) -> Problem:
    """Return the problem of a request that comes while too many others wait."""
    headers = {"retry-after": str(max(1, math.ceil(seconds)))}
    return Problem(429, "too many requests wait already; try again later", "rate_limit_exceeded", headers=headers)


def not_offered(name: str) -> Problem:
    """Return the problem of a reply that calls a tool which the request does not offer."""
    return Problem(422, f"the model called {name[:80]!r}, a tool that the request does not offer", "unknown_tool")
