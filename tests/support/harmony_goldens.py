"""Read what `make goldens-harmony` wrote, once its checksum is right."""

import hashlib
import json
import lzma
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "data/harmony"


def read_golden(name: str) -> list[dict]:
    sums = dict(reversed(line.split()) for line in (FOLDER / "SHA256SUMS").read_text().splitlines())
    packed = (FOLDER / name).read_bytes()
    assert hashlib.sha256(packed).hexdigest() == sums[name], f"{name} is damaged: run `make goldens-harmony`"
    return [json.loads(line) for line in lzma.decompress(packed).splitlines()]
