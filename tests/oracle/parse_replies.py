"""Read replies' ids from standard input, one list a line, and write to whom openai-harmony finds their messages go.

Runs where openai-harmony is installed: ``python -m tests.oracle.parse_replies``. A line is null where it raises.
"""

import json
import sys

from tests.oracle.harmony_encoding import load_encoding


def main() -> None:
    from openai_harmony import HarmonyError, Role

    encoding = load_encoding()
    for line in sys.stdin:
        try:
            messages = encoding.parse_messages_from_completion_tokens(json.loads(line), Role.ASSISTANT)
            found = [message.recipient for message in messages]
        except (HarmonyError, UnicodeDecodeError):
            found = None
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
