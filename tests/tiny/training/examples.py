"""Conversations as ids: what the model reads, and which of it the model itself is to write."""

from gptoss_mlx.harmony import Message, Tokenizer, drop_thoughts, render_messages, reply_start

Example = tuple[list[int], list[bool]]
"""Ids, and for each whether the model writes it."""


def encode(messages: list[Message], tokenizer: Tokenizer, calls_as_emitted: bool = True) -> Example:
    """Ids of a conversation after its head, and which of them the model writes: what comes after the last user message.

    Calls are in the form the model emits, as this runtime keeps them; or in that of a request's history, with the
    recipient before the channel. The model does not learn to write the latter, only to go on from it.
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
    """A tool call as gpt-oss writes it of itself: ``<|channel|>commentary to=functions.f <|constrain|>json``."""
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
