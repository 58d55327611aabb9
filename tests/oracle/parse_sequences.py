"""What openai-harmony, at its most lenient, makes of every short sequence of token classes; written as JSON lines.

Runs where openai-harmony is installed: ``python -m tests.oracle.parse_sequences LONGEST RANKS_FOLDER``.
"""

import json
import os
import sys
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.token_classes import encode, sequences


def parsed(oracle: Any, ranks: Path, longest: int) -> Iterator[list[list] | None]:
    """``[role, channel, recipient, text]`` of each message, for each sequence; None where openai-harmony raises."""
    from openai_harmony import HarmonyError, Role

    special = {text: oracle.encode(text, allowed_special="all")[0] for text in oracle.special_tokens_set}
    id_of = {b64decode(line.split()[0]): int(line.split()[1]) for line in ranks.read_bytes().splitlines()}
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


def main() -> None:
    folder = Path(sys.argv[2])
    os.environ["TIKTOKEN_ENCODINGS_BASE"] = str(folder)
    from openai_harmony import HarmonyEncodingName, load_harmony_encoding

    oracle = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
    for found in parsed(oracle, folder / "o200k_base.tiktoken", int(sys.argv[1])):
        print(json.dumps(found))


if __name__ == "__main__":
    main()
