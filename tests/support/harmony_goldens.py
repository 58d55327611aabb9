"""Read what `make goldens-harmony` wrote, after its checksum is compared, and turn its messages into ours."""

import hashlib
import json
import lzma
import re
from pathlib import Path

from gptoss_mlx.harmony import Developer, Function, Message, Namespace, ResponseFormat, System

FOLDER = Path(__file__).parent.parent / "data/harmony"


def checksums() -> dict[str, str]:
    return dict(reversed(line.split()) for line in (FOLDER / "SHA256SUMS").read_text().splitlines())


def read_golden(name: str) -> list[dict]:
    """Return the rows of a packed file."""
    return [json.loads(line) for line in lzma.decompress(_checked(name)).splitlines()]


def read_scenario(name: str) -> dict[str, str]:
    """Return the sections of a scenario's text file by their names."""
    _, *parts = re.split(r"^=== (\w+) ===\n", _checked(name).decode(), flags=re.MULTILINE)
    return {name: text.removesuffix("\n") for name, text in zip(parts[::2], parts[1::2], strict=True)}


def _checked(name: str) -> bytes:
    data = (FOLDER / name).read_bytes()
    assert hashlib.sha256(data).hexdigest() == checksums()[name], f"{name} is damaged: run `make goldens-harmony`"
    return data


def message_of(raw: dict) -> Message:
    content = raw["content"]
    if isinstance(content, str):
        pass
    elif "system" in content:
        values = content["system"]
        tools = [Namespace(t["name"], t["description"], functions_of(t["functions"])) for t in values["tools"]]
        content = System(**{**values, "tools": tuple(tools), "channels": tuple(values["channels"])})
    else:
        values = content["developer"]
        form = ResponseFormat(**values["response_format"]) if "response_format" in values else None
        content = Developer(values["instructions"], functions_of(values["functions"]), form)
    return Message(**{**raw, "content": content})


def functions_of(raw: list) -> tuple[Function, ...]:
    return tuple(Function(**function) for function in raw)
