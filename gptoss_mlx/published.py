"""The published models: their names here and on the Hub."""

import re

HUB_IDS = {"20b": "openai/gpt-oss-20b", "120b": "openai/gpt-oss-120b"}


def published_name(text: str) -> str | None:
    """Return "20b" or "120b" if ``text`` is what people or other programs call that model, in any case, else None."""
    spelled = text.lower()
    for name, hub_id in HUB_IDS.items():
        if spelled in (name, f"gpt-oss-{name}", f"gpt-oss:{name}", hub_id):
            return name
    return None


def is_hub_id(text: str) -> bool:
    """Return whether ``text`` has the form of an id on the Hub, OWNER/NAME."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", text) is not None
