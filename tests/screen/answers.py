"""Answers as models write them, made from a seed: Markdown of every kind, and long ones of one kind."""

import random

WORDS = "the sum of a list is kept while each value grows by one and when it ends we return what was left"
INLINE = r"""
**{}** | *{}* | `{}` | [{}](https://example.org/{}) | ~~{}~~ | <b>{}</b> | a<b and {}>d | Map<String, List<{}>>
$x_{} * y_1$ | \({} * 2\) | &lt;{}&gt; | ![{}](pic.png "a title") | <https://example.org/{}> | _{}_ | [{}][1]
{}_with_underscores | 2 * {} * 3 | \*{}\* | costs $5, {} | **bold *and {}* inside** | ``a ` {}`` | 日本語と{} | 🙂 {}
***{}*** | [{} | *{} | `{} | e.g. [see [{}](x)](y) | <!-- {} --> | {}\+more | {}  +more | a & b; {} | x^{}
"""
PATTERNS = [part.strip(" ").replace("+", "\n") for line in INLINE.strip().splitlines() for part in line.split(" | ")]


def words(rng, most=12):
    return " ".join(rng.choice(WORDS.split()) for _ in range(rng.randint(1, most)))


def sentence(rng):
    parts = []
    for _ in range(rng.randint(1, 4)):
        parts.append(words(rng))
        if rng.random() < 0.5:
            parts.append(rng.choice(PATTERNS).replace("{}", words(rng, 2)))
    text = " ".join(parts)
    return text.replace(" ", "\n", 1) if rng.random() < 0.1 else text


def block(rng, depth=0):
    kind = rng.choice(("paragraph", "paragraph", "list", "code", "table", "quote", "heading", "html", "math", "rule"))
    if kind == "list" and depth < 3:
        return listed(rng, depth)
    if kind == "quote" and depth < 3:
        return indented(block(rng, depth + 1), "> ", "> ")
    if kind == "code":
        fence = rng.choice(("```", "~~~", "````"))
        return f"{fence}{rng.choice(('', 'python', 'c++'))}\n{code_lines(rng, rng.randint(0, 6))}{fence}"
    if kind == "table":
        columns = rng.randint(1, 5)
        rows = [[sentence(rng).replace("\n", " ").replace("|", "\\|") for _ in range(columns)] for _ in range(4)]
        lines = ["| " + " | ".join(row) + " |" for row in rows]
        return "\n".join(
            [lines[0], "|" + rng.choice(("---", ":-:", "--:")) * 1 + "|---" * (columns - 1) + "|", *lines[1:]]
        )
    if kind == "heading":
        return rng.choice(("# {}", "## {}", "### {} ###", "{}\n===", "{}\n---")).replace(
            "{}", sentence(rng).replace("\n", " ")
        )
    if kind == "html":
        return f"<details>\n<summary>{words(rng)}</summary>\n{sentence(rng)}\n</details>"
    if kind == "math":
        return rng.choice(("\\[\n{}\n- {}\n\\]", "$$\n{}\n+ {}\n$$", "$$ {} $$")).replace("{}", "a_1 * b^2")
    if kind == "rule":
        return rng.choice(("---", "***", "[1]: https://example.org/one"))
    return "\n".join(sentence(rng) for _ in range(rng.randint(1, 3)))


def listed(rng, depth):
    ordered = rng.random() < 0.4
    items = []
    for number in range(rng.randint(1, 5)):
        mark = f"{number + 1}. " if ordered else "- "
        inner = sentence(rng).replace("\n", " ")
        if rng.random() < 0.3:
            inner += rng.choice(("\n", "\n\n")) + block(rng, depth + 1)
        items.append(indented(inner, mark, " " * len(mark)))
    return rng.choice(("\n", "\n\n")).join(items)


def indented(text, first, rest):
    lines = text.split("\n")
    return "\n".join(((first if n == 0 else rest) + line).rstrip() for n, line in enumerate(lines))


def code_lines(rng, count):
    return "".join(
        "\t" * rng.randint(0, 2) + f"{words(rng, 6).replace(' ', '_', 1)} = a<b> * c | d  # {rng.random()}\n"
        for _ in range(count)
    )


def answer(seed):
    """Return an answer of one to eight blocks."""
    rng = random.Random(seed)
    text = "\n\n".join(block(rng) for _ in range(rng.randint(1, 8)))
    return text + rng.choice(("", "\n"))


def code_answer(lines):
    return f"Here is the file:\n\n```python\n{code_lines(random.Random(1), lines)}```\n"


def list_answer(lines):
    rng = random.Random(2)
    return "".join(f"- **{words(rng, 2)}**: {words(rng)} `{words(rng, 1)}`\n" for _ in range(lines))


def paragraph_answer(lines):
    rng = random.Random(3)
    return "\n\n".join(f"{words(rng, 12)} **{words(rng, 2)}** and {words(rng, 12)}." for _ in range(lines // 2)) + "\n"


def table_answer(lines):
    rng = random.Random(4)
    return "| a | b |\n|---|---|\n" + "".join(f"| {words(rng, 4)} | {words(rng, 6)} |\n" for _ in range(lines - 2))


def mixed_answer(lines):
    text, seed = "", 0
    while text.count("\n") < lines:
        seed += 1
        text += answer(seed) + "\n\n"
    return text
