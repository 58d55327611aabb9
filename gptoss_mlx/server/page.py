"""The page at ``/``: a chat in a browser. One file, which asks for nothing but this server's own API."""

import base64
import hashlib
import re
from functools import lru_cache
from pathlib import Path

from gptoss_mlx.server.exchange import Exchange
from gptoss_mlx.server.listings import here
from gptoss_mlx.server.service import Service

FILE = Path(__file__).parent / "page.html"


async def home(exchange: Exchange, service: Service) -> None:
    """Show the page to a browser, and tell other clients that there is a server."""
    if "text/html" not in exchange.headers.get("accept", ""):
        await here(exchange, service)
        return
    data = FILE.read_bytes()
    own = {
        "content-security-policy": policy(data),
        "cache-control": "no-cache",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "cross-origin-opener-policy": "same-origin",
    }
    await exchange.send(data, "text/html; charset=utf-8", headers=own)


@lru_cache(maxsize=1)
def policy(page: bytes) -> str:
    """Return the Content-Security-Policy that lets a page run its own script and style, found by their hashes, and ask
    its own server, and nothing else. A script that got into the page would not run."""
    rules = {"default-src": "'none'", "connect-src": "'self'", "base-uri": "'none'", "form-action": "'none'"}
    rules |= {"frame-ancestors": "'none'", "require-trusted-types-for": "'script'", "trusted-types": "'none'"}
    for element in ("script", "style"):
        (text,) = re.findall(rf"<{element}>(.*?)</{element}>".encode(), page, re.DOTALL)
        rules[f"{element}-src"] = f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"
    return "; ".join(f"{name} {value}" for name, value in rules.items())
