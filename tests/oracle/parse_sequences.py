"""Write what openai-harmony's lenient parser reads in every short sequence of token classes, as JSON lines.

Runs where openai-harmony is installed: ``python -m tests.oracle.parse_sequences LONGEST``.
"""

import json
import lzma
import sys
from base64 import b64decode
from collections.abc import Iterator
from typing import Any

from tests.oracle.harmony_encoding import RANKS, load_encoding
from tests.support.token_classes import encode, sequences


def parsed(oracle: Any, longest: int) -> Iterator[list[list] | None]:
    """Yield ``[role, channel, recipient, text]`` of each message of each sequence, None if openai-harmony raises."""
    from openai_harmony import HarmonyError, Role

    special = {text: oracle.encode(text, allowed_special="all")[0] for text in oracle.special_tokens_set}
    id_of = {
        b64decode(line.split()[0]): int(line.split()[1]) for line in lzma.decompress(RANKS.read_bytes()).splitlines()
    }
    for pieces in sequences(longest):
        ids = encode(
            pieces,
            special,
            lambda text: oracle.encode(text, disallowed_special=()),
            lambda raw: [id_of[bytes((byte,))] for byte in raw],
        )
        try:
            messages = oracle.parse_messages_from_completion_tokens(ids, Role.ASSISTANT, strict=False)
        except (HarmonyError, UnicodeDecodeError):
            yield None
            continue
        yield [[m.author.role, m.channel, m.recipient, "".join(part.text for part in m.content)] for m in messages]


if __name__ == "__main__":
    for found in parsed(load_encoding(), int(sys.argv[1])):
        print(json.dumps(found))
