"""OpenAI's harmony format: messages to token ids, and token ids to messages. Knows no model."""

from gptoss_mlx.harmony.messages import (
    Developer,
    Function,
    Message,
    Namespace,
    ResponseFormat,
    System,
    drop_thoughts,
    text_call,
    tool_call,
    tool_result,
)
from gptoss_mlx.harmony.parser import Delta, MessageEnd, MessageStart, ParserEvent, ReplyEnd, StreamParser
from gptoss_mlx.harmony.render import render, render_messages, reply_start, without
from gptoss_mlx.harmony.tokenizer import Tokenizer

__all__ = [
    "Delta",
    "Developer",
    "Function",
    "Message",
    "MessageEnd",
    "MessageStart",
    "Namespace",
    "ParserEvent",
    "ReplyEnd",
    "ResponseFormat",
    "StreamParser",
    "System",
    "Tokenizer",
    "drop_thoughts",
    "render",
    "render_messages",
    "reply_start",
    "text_call",
    "tool_call",
    "tool_result",
    "without",
]
