"""What ``gptoss-mac run`` asks: its argument, what is piped in, attached files, and a template around them."""

import sys
from collections.abc import Sequence

from gptoss_mlx.attachments import mentioned, read_attachment, with_attachments
from gptoss_mlx.errors import UsageError, shown
from gptoss_mlx.templates import Template
from gptoss_mlx.text_input import decoded


def question(prompt: str | None, files: Sequence[str], template: Template) -> str:
    """Return the message to send. What is piped in stands before ``prompt``, and files before both.

    An @ attaches a file only in ``prompt``: what is piped in may come from anywhere. Raises UsageError if nothing is
    asked, and for what is no text.
    """
    named = dict.fromkeys([*files, *mentioned(prompt or "")])
    attached = [read_attachment(name) for name in named]
    if sys.stderr.isatty():
        for file in attached:
            print(shown(f"attached {file.name}, {file.nbytes:,} bytes"), file=sys.stderr)
    if prompt is None and not attached and not template.prompt and sys.stdin.isatty():
        raise UsageError("no prompt; give one as an argument, or pipe one in")
    piped = "" if sys.stdin.isatty() else decoded(sys.stdin.buffer.read(), "standard input")
    parts = [part for part in (piped, prompt or "") if part.strip()]
    text = template.filled("\n\n".join([part.rstrip("\n") for part in parts[:-1]] + parts[-1:]))
    if not text.strip() and not attached:
        raise UsageError("the prompt is empty")
    return with_attachments(text, attached)
