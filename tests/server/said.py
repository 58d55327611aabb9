"""Replies in harmony that tests have a scripted model say, and the function that they call."""

from tests.support.harmony_streams import CALL, CHANNEL, CONSTRAIN, END, MESSAGE, RETURN, START

NEXT = [END, START, "assistant"]
THOUGHT = [CHANNEL, "analysis", MESSAGE, "Let me see."]
SAID = [CHANNEL, "commentary", MESSAGE, "A look."]
ANSWER = [CHANNEL, "final", MESSAGE, "It is 4.", RETURN]
ENDLESS = [CHANNEL, "final", MESSAGE, "".join(f" and {n}" for n in range(1000, 3000))]


def giving(name, text):
    """A call of a tool that takes text."""
    return [f" to=functions.{name}", CHANNEL, "commentary", MESSAGE, text, CALL]


def calling(name="f", arguments='{"city":"Paris"}', ending=CALL):
    return [CHANNEL, f"commentary to=functions.{name} ", CONSTRAIN, "json", MESSAGE, arguments, ending]


PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
SUM_SCHEMA = {
    "type": "object",
    "properties": {"sum": {"type": "integer", "minimum": 0, "maximum": 999}, "sure": {"enum": ["yes", "no"]}},
    "required": ["sum", "sure"],
    "additionalProperties": False,
}
CHAT_TOOL = {"type": "function", "function": {"name": "f", "description": "Weather.", "parameters": PARAMETERS}}
