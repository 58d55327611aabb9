"""Who may ask: the hosts a server answers to, the pages that may use it, and the key.

A page on the internet can have a browser send requests to a server on the same machine, under a name that it has made
point there. Such requests have the page's Origin, or a Host that is no name of this machine. Knows no endpoint.
"""

import hmac
import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from gptoss_mlx.server.exchange import Dialect, Exchange
from gptoss_mlx.server.problems import Problem

LOCAL_NAMES = (".local", ".internal", ".localhost")
"""Endings of names that no name server of the internet has."""

_HOST = re.compile(r"(\[(?P<address>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(:\d{1,5})?")

OPEN_PATHS = ("/health", "/")
"""Answered without the key, because they say nothing of anyone's requests. The page asks for the key."""


@dataclass(frozen=True)
class Guard:
    """Refuses requests before ``app`` sees them. ``host`` is what the server is bound to. ``origins`` are those of
    pages that may use it. Without a ``key`` everyone on this machine may."""

    app: ASGIApp
    host: str
    key: str | None = None
    origins: Collection[str] = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (problem := self.problem(scope)):
            await Exchange(scope, None, send, dialect_of(scope["path"])).fail(problem)
            return
        await self.app(scope, receive, send)

    def problem(self, scope: Scope) -> Problem | None:
        """Return why the request is refused, or None."""
        headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            if name == b"host" and "host" in headers:
                return Problem(400, "the request has two Host headers", "bad_host")
            headers[name.decode("latin-1")] = value.decode("latin-1")
        host = headers.get("host", "")
        if not self._is_ours(_hostname(host)):
            return Problem(403, f"the Host header is {host[:80]!r}; this server does not answer to it", "bad_host")
        origin = headers.get("origin")
        if origin is not None and origin not in self.origins and origin not in (f"http://{host}", f"https://{host}"):
            return Problem(
                403, f"pages of {origin[:80]!r} may not use this server; start it with --allow-origin", "bad_origin"
            )
        if self.key is not None and scope["path"] not in OPEN_PATHS and scope["method"] != "OPTIONS":
            scheme, _, bearer = headers.get("authorization", "").partition(" ")
            given = bearer if scheme.lower() == "bearer" else headers.get("x-api-key", "")
            if not hmac.compare_digest(given.strip().encode(), self.key.encode()):
                return Problem(401, "the API key is missing or wrong", "invalid_api_key")
        return None

    def _is_ours(self, name: str) -> bool:
        if is_loopback(name) or name == self.host.lower():
            return True
        if is_loopback(self.host):
            return False
        return _address(name) is not None or (bool(name) and "." not in name) or name.endswith(LOCAL_NAMES)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server that is bound to ``host``."""
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def dialect_of(path: str) -> Dialect:
    """Return whose error objects clients of this path expect."""
    return "anthropic" if path.startswith("/v1/messages") else "openai"


def _hostname(host: str) -> str:
    """Return the name in a Host header, without its port, or "" for one that is malformed."""
    found = _HOST.fullmatch(host)
    return (found["address"] or found["name"]).lower() if found else ""


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
