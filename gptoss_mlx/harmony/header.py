"""Read message headers, the text from ``<|start|>`` to ``<|message|>``, in every form models have been seen to write.

The well-formed headers are ``assistant to=functions.f<|channel|>commentary <|constrain|>json`` and the same with the
recipient after the channel. Knows text and the markers inside a header. Knows neither ids nor bodies.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from gptoss_mlx.harmony.messages import Message, Role

CHANNELS = ("analysis", "commentary", "final")
LONGEST_NAME = 32
"""A lone word after ``<|channel|>`` of at most so many characters is read as a name; a longer one is prose."""

_ROLE = re.compile(r"\s*(assistant|(?:user|system|developer|tool)(?![a-z]))(?::([^\s<>|]+))?")
_ROLE_ALONE = re.compile(r"\s*assistant(?!\S)\s*")
_TOOL = re.compile(r"\s*(?:([^\s<>|]+)(?=\s+to=assistant)|(functions\.[^\s<>|{]+))")
_CHANNEL = re.compile(r"\s*(analysis|commentary|final)")
_CHANNEL_ENDS = re.compile(r"\s*(?:(analysis|commentary|final))+(?=to=|json\b|code\b|[^a-z_]|$)")
_RECIPIENT = re.compile(r"\s*(?:to=\s*|(?<!\S)(?=functions\.))([^\s<>|{]+)")
_TYPE = re.compile(r"\s*\b(json|code)\b")
_WORD = re.compile(r'\s*([^\s<>|{["]+)')
_LONE_WORD = re.compile(rf"\s*[^\s<>|{{\[\"]{{1,{LONGEST_NAME}}}\s*")
_LOOK_ALIKE = re.compile(r"<\|(channel|constrain)\|>")
_SCRAPS = re.compile(r"(?:analysis|commentary|final|[?!.,:;|*#-])+\s*")


class HeaderPart(NamedTuple):
    """A marker inside a header and the text after it. ``marker`` is ``""`` for the text before the first marker."""

    marker: str
    text: str


def read_header(
    parts: Sequence[HeaderPart], *, begun: bool, whole: bool, channel: str | None = None
) -> tuple[Message, str]:
    """Return the message a header announces, with empty content, and the text that does not belong to the header.

    ``whole`` says that ``<|message|>`` ended the header. Meaningless words are then skipped, and markers spelled out in
    ordinary text count as markers. If it is False, the returned text is the beginning of a body; a garbled channel name
    is not part of it. ``begun`` says that ``<|start|>`` came, so the first word must be a role: an unknown word counts
    as a tool's name, or is skipped if the header is not whole. ``channel`` is used if the header names no channel.
    """
    if whole:
        parts = [piece for part in parts for piece in _tidied(part)]
    role: Role = "assistant"
    name = recipient = content_type = None
    constrained = False
    rest = ""
    # Each step removes what it recognises from the text of a part.
    for marker, text in parts:
        if not marker and (begun or whole):
            if found := _ROLE.match(text):
                role, name = found.groups()  # type: ignore[assignment]
                text = text[found.end() :]
            elif found := _TOOL.match(text):
                role = "tool"
                name = found[1] or found[2]
                text = text[found.end() :]
            elif begun and not _RECIPIENT.match(text):
                if (found := _WORD.match(text)) and whole and not _CHANNEL.match(text):
                    role = "tool"
                    name = found[1]
                    text = text[found.end() :]
                text = text if whole else ""
        elif not marker and (found := _ROLE_ALONE.match(text)):
            text = text[found.end() :]  # it repeats the prompt, or <|start|> is missing
        # The last known channel wins. An unknown name is used only if there is no other.
        if (marker == "channel" or not marker) and whole and (found := _CHANNEL.match(text)):
            channel = found[1]
            text = text[found.end() :]
        elif marker == "channel" and whole and (found := _WORD.match(text)) and not found[1].startswith("to="):
            channel = channel or found[1]
            text = text[found.end() :]
        elif marker == "channel" and not whole:
            channel, text = _unannounced(text, channel)
        if found := (_RECIPIENT.search if whole else _RECIPIENT.match)(text):
            recipient = recipient or found[1]
            text = text[: found.start()] + text[found.end() :]
        if marker == "constrain" and (found := _WORD.match(text)):
            content_type = found[1]
            constrained = True
            text = text[found.end() :]
        elif marker and (found := (_TYPE.search if whole else _TYPE.match)(text)):
            content_type = content_type or found[1]
            text = text[: found.start()] + text[found.end() :]
        rest += text
    if role == "assistant" and recipient in ("all", "user", "assistant"):
        recipient = None
    rest = "" if not whole and _ROLE_ALONE.fullmatch(rest) else rest.lstrip()
    return Message(role, "", name, recipient, channel, content_type, constrained), rest


def _unannounced(text: str, channel: str | None) -> tuple[str | None, str]:
    """Split the text after ``<|channel|>`` in a header without ``<|message|>`` into the channel and the remaining text.

    A known name must not continue as a longer word: ``finally, yes`` names no channel and is returned whole. A lone
    unknown word, or fragments of known names, were meant as a name, so they are dropped.
    """
    if found := _CHANNEL_ENDS.match(text):
        rest = text[found.end() :]
        return found[1], "" if _SCRAPS.fullmatch(rest) else rest
    if _LONE_WORD.fullmatch(text) and not _RECIPIENT.match(text):
        return channel, ""
    return channel, text


def _tidied(part: HeaderPart) -> list[HeaderPart]:
    """Split a part at markers spelled out in its text. Collapse blanks, because the searches are slow on long runs."""
    first, *others = _LOOK_ALIKE.split(" ".join(part.text.split()))
    return [HeaderPart(part.marker, first), *map(HeaderPart, others[::2], others[1::2])]
