"""``gptoss-mac`` with a model that says what its last message asks for, at 100 tokens a second.

Run as ``python -m tests.screen.program chat --model tiny``. All else is the real program.
"""

import sys
import time

from gptoss_mlx import conversation, runtime
from gptoss_mlx.cli import main

SAID = []
SAMPLE = """\
# Sums of numbers

The **total** of `a<b` and a<b and c>d is *405*. See [the page](https://example.org/sums), Map<String, List<Integer>>.
日本語のテキストです 🙂 and $a_1 * b_2$. A paragraph that is longer than any of these windows is wide must be wrapped.

1. first `405`
2. then **nothing**
   - nested

> It was so
> in every line.

| name | meaning |
|---|---|
| `x` | the first |
| `y` | 数 |

```python
def total(a, b):
\treturn a + b  # a comment that is longer than forty columns are wide
```

<details>
<summary>More</summary>
Hidden elsewhere.
</details>

\\[
x = a
- b
\\]
"""
THOUGHT = " ".join(f"step {n}, carry {n % 2};" for n in range(400))


def reply_to(text):
    """Return the thought and the answer for what the user said."""
    if "lines?" in text:
        return "Count.", f"Your message has {text.count(chr(10)) + 1} lines."
    if "think" in text:
        return THOUGHT, "Done thinking."
    if "count" in text:
        return "Hm.", "\n".join(f"This is line number {n} of the answer, no more and no less." for n in range(1, 121))
    return "A sample is wanted.\nI give all kinds of text.", SAMPLE


def continuation(self, context, prompt, *, cancelled, **_):
    tokenizer = self.tokenizer
    thought, answer = reply_to(SAID[-1])
    special = tokenizer.special
    ids = [special["<|channel|>"], *tokenizer.encode("analysis"), special["<|message|>"], *tokenizer.encode(thought)]
    ids += [special["<|end|>"], special["<|start|>"], *tokenizer.encode("assistant"), special["<|channel|>"]]
    ids += [*tokenizer.encode("final"), special["<|message|>"], *tokenizer.encode(answer), special["<|return|>"]]
    for id in ids:
        if cancelled():
            return
        time.sleep(0.01)
        yield id


def send(self, text):
    SAID.append(text)
    return SEND(self, text)


SEND = conversation.Conversation.send

if __name__ == "__main__":
    conversation.Conversation.send = send
    runtime.Runtime.continuation = continuation
    sys.argv[0] = "gptoss-mac"
    main()
