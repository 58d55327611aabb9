"""The commands that the project tells people to run: in messages, help and docstrings, in documents, in workflows.

In Python and Markdown a command is what stands between backticks, what follows ``run:`` or ``Next:``, and what is a
line of an example. What is inserted into a message at run time is an ``x`` here.
"""

import ast
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent.parent
PROGRAMS = ("gptoss-mac", "hf", "pip", "make", "git", "jq", "python")
LOOKS_QUOTED = re.compile(r"gptoss-mac (?!again|model folder)[a-z]\w+|hf download|pip install|git lfs|jq -")
MARKED = re.compile(r"``(.+?)``|`([^`\n]+)`|(?:\b[Rr]un|Next): (.+)$", re.M)


class Command(NamedTuple):
    words: tuple[str, ...]  # the program first, without its folder
    file: str


def all_commands() -> list[Command]:
    """Every command once, with a file that quotes it."""
    found: dict[tuple[str, ...], str] = {}
    for file, texts in (*_python(), *_documents(), *_scripts()):
        for text in texts:
            for words in commands_of(text):
                found.setdefault(words, str(file.relative_to(ROOT)))
    return [Command(words, file) for words, file in found.items()]


def unmarked() -> list[str]:
    """Messages that seem to quote a command without marking it: these would escape ``all_commands``."""
    return [
        f"{file.relative_to(ROOT)}: {text}"
        for file, texts in _messages()
        for text in texts
        if any(quoted not in " ".join(_marked(text)) for quoted in LOOKS_QUOTED.findall(text))
    ]


def commands_of(text: str) -> Iterator[tuple[str, ...]]:
    """Yield the commands of a line, without assignments before them and without redirections."""
    reader = shlex.shlex(text, posix=True, punctuation_chars="|&;<>")
    reader.whitespace_split = True
    try:
        words = list(reader)
    except ValueError:  # a quotation mark of prose
        return
    for joined, part in itertools.groupby(words, lambda word: word in ("|", "||", "&&", ";")):
        if not joined and (command := _command(list(part))):
            yield command


def _command(words: list[str]) -> tuple[str, ...]:
    while words and (words[0] == "$" or re.fullmatch(r"[A-Z_]+=.*", words[0])):
        words = words[1:]
    end = next((n for n, word in enumerate(words) if word[:1] in ("<", ">")), len(words))
    if end < len(words) and words[end - 1 : end] == ["2"]:  # standard error, which is redirected
        end -= 1
    words = words[:end]
    if words and (program := words[0].removeprefix(".venv/bin/")) in PROGRAMS:
        return (program, *words[1:])
    return ()


def _marked(text: str) -> list[str]:
    whole = [text] if text.startswith("hf ") else []  # made in one place, quoted in others
    return whole + ["".join(groups) for groups in MARKED.findall(text)]


def _messages() -> Iterator[tuple[Path, list[str]]]:
    for package in ("gptoss_mlx", "convert", "metal_kernels"):
        for file in sorted((ROOT / package).rglob("*.py")):
            yield file, list(strings_of(file))


def _python() -> Iterator[tuple[Path, list[str]]]:
    for file, texts in _messages():
        yield file, [command for text in texts for command in _marked(text)]
    for file in sorted((ROOT / "tests").rglob("*.py")):
        yield file, _marked(ast.get_docstring(ast.parse(file.read_text())) or "")


def strings_of(file: Path) -> Iterator[str]:
    """Yield the strings of a program, what is inserted into one at run time as an ``x``."""
    tree = ast.parse(file.read_text())
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "x" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.value


def _documents() -> Iterator[tuple[Path, list[str]]]:
    for file in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "gptoss_mlx").rglob("*.md")]:
        text = file.read_text()
        examples = [*_lines(text), *re.findall(r"^    (\S.*)$", text, re.M)]
        yield file, _marked(re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)) + examples


def _lines(text: str) -> Iterator[str]:
    """Yield the lines of a document's ``text`` blocks, continued ones as one. Tests of the pages run ``sh`` blocks."""
    for block in re.findall(r"^```text\n(.*?)^```$", text, re.M | re.S):
        yield from block.replace("\\\n", " ").splitlines()


def unread() -> list[str]:
    """Lines of examples that begin with a command of ours and are not understood as one."""
    return [
        line
        for file in (ROOT / "docs").rglob("*.md")
        for line in _lines(file.read_text())
        if re.search(r"(^|[|;&$] *)gptoss-mac [a-z-]", line) and not list(commands_of(line))
    ]


def _scripts() -> Iterator[tuple[Path, list[str]]]:
    for file in [ROOT / ".ci/run", *(ROOT / ".github/workflows").glob("*.yml")]:
        yield file, re.findall(r"^(?:if |\s*- run: |\s*)((?:make|\.venv/bin/)[^;\n]*)", file.read_text(), re.M)
