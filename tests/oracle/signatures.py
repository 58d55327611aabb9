"""Render declared functions by openai-harmony. Runs where it is installed, and imports nothing of ours.

``python -m tests.oracle.signatures`` reads a JSON list of ``tests.support.schemas`` declarations from standard input,
and writes a list of their ids, or of the reason if openai-harmony refuses one.
"""

import json
import sys

from tests.oracle.harmony_encoding import load_encoding


def ids_of(encoding, declaration: dict) -> list[int]:
    """Return the developer message's ids. Raises ValueError if openai-harmony refuses it."""
    from openai_harmony import Conversation, RenderConversationConfig

    tools = {"functions": {"name": "functions", "description": None, "tools": declaration["functions"]}}
    content = {"type": "developer_content", "instructions": declaration["instructions"], "tools": tools}
    message = {"role": "developer", "content": [content]}
    whole = Conversation.from_json(json.dumps({"messages": [message]}))
    return encoding.render_conversation(whole, RenderConversationConfig(auto_drop_analysis=False))


def ids_or_reason(encoding, declaration: dict) -> list[int] | str:
    try:
        return ids_of(encoding, declaration)
    except (ValueError, RecursionError) as error:
        return str(error)


if __name__ == "__main__":
    oracle = load_encoding()
    json.dump([ids_or_reason(oracle, declaration) for declaration in json.load(sys.stdin)], sys.stdout)
