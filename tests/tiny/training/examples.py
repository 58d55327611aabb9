"""Encode conversations as ids, and mark the ids that the model learns to write."""

from gptoss_mlx.harmony import Message, Tokenizer, drop_thoughts, render_messages, reply_start

Example = tuple[list[int], list[bool]]
"""Ids, and for each whether the model writes it."""


def encode(messages: list[Message], tokenizer: Tokenizer, calls_as_emitted: bool = True) -> Example:
    """Return a conversation's ids after its head, and for each whether the model learns it.

    The model learns the assistant messages after the last user message.

    Calls have the form the model emits, or that of a request's history, with the recipient before the channel. The
    model learns to continue after the second form, not to write it.
    """
    messages = drop_thoughts(messages)
    last_user = max(i for i, message in enumerate(messages) if message.role == "user")
    ids: list[int] = []
    learn: list[bool] = []
    for i, message in enumerate(messages):
        own = message.role == "assistant" and i > last_user
        if message.recipient and message.role == "assistant" and calls_as_emitted:
            part = emitted_call(message, tokenizer)
        else:
            part = render_messages([message], tokenizer)
            if message.recipient and message.role == "assistant":
                learn = [False] * len(learn)
                own = False
        given = len(reply_start(tokenizer)) if own and messages[i - 1].role != "assistant" else 0
        ids += part
        learn += [own and at >= given for at in range(len(part))]
    ids[-1] = tokenizer.special["<|return|>"]
    return ids, learn


def emitted_call(message: Message, tokenizer: Tokenizer) -> list[int]:
    """Return a tool call in the form gpt-oss emits: ``<|channel|>commentary to=functions.f <|constrain|>json``."""
    special = tokenizer.special
    text = tokenizer.encode
    header = [
        special["<|channel|>"],
        *text(f"commentary to={message.recipient} "),
        special["<|constrain|>"],
        *text("json"),
    ]
    body = [special["<|message|>"], *text(str(message.content)), special["<|call|>"]]
    return reply_start(tokenizer) + header + body
