"""Measure what a chat shows, what drawing costs, and how soon it asks for input.

``python -m tests.reports.chat`` reads the Markdown that installed packages ship, and generated answers, in two widths
and in pieces of several sizes. It exits with 1 if a word is missing or a goal is missed.
"""

import argparse
import email
import os
import pty
import random
import re
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from gptoss_mlx.screen.markdown import MarkdownStream
from gptoss_mlx.screen.style import Paint
from tests.screen.answers import answer, code_answer, list_answer, mixed_answer, paragraph_answer, table_answer
from tests.screen.terminal import lines_on
from tests.screen.test_drawing import cost
from tests.screen.words import missing

ROOT = Path(__file__).parent.parent.parent
SIZES = (2, 7, 20, 40, 10_000)
"""Characters that arrive between two draws."""

LONGEST = 60_000
"""Characters of a document that are read. The terminal emulator is slow."""


def documents(folders: list[Path], most: int) -> Iterator[tuple[str, str]]:
    """Yield the names and texts of different Markdown documents below folders: READMEs, also those in metadata."""
    seen = set()
    for folder in folders:
        for path in sorted([*folder.rglob("*.md"), *folder.rglob("*.dist-info/METADATA")]):
            if len(seen) == most:
                return
            try:
                text = path.read_text("utf-8")
            except (OSError, UnicodeDecodeError):
                continue
            if path.name == "METADATA":
                metadata = email.message_from_string(text)
                text = str(metadata.get_payload()) if "markdown" in metadata.get("Description-Content-Type", "") else ""
            text = text.replace("\r\n", "\n")[:LONGEST]
            if len(text) > 200 and text not in seen:
                seen.add(text)
                yield str(path), text


def drawn(source: str, size: int, columns: int) -> str:
    stream = MarkdownStream(lambda: columns)
    paint = Paint()
    out = []
    for at in range(0, len(source), size):
        stream.feed(source[at : at + size])
        out.append(paint(stream.draw()))
    return "".join([*out, paint(stream.draw(last=True))])


def lost(source: str, seed: int) -> str | None:
    """Return what is missing on the screen of a source that arrives in pieces."""
    rng = random.Random(seed)
    columns = rng.choice((40, 60, 100))
    written = drawn(source, rng.choice(SIZES), columns)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", written).split("\n")
    return missing(source, lines_on(columns, written)) or missing(source, plain, emulated=False)


def report_words(kind: str, sources: Iterator[tuple[str, str]]) -> bool:
    count = characters = 0
    wrong = []
    for number, (name, source) in enumerate(sources):
        count += 1
        characters += len(source)
        if found := lost(source, number):
            wrong.append((name, found))
    for name, found in wrong[:10]:
        print(f"  {name}: missing {found!r}")
    print(f"{kind}: {count:,} with {characters:,} characters, {len(wrong)} of them with a word missing")
    return not wrong


def report_cost() -> bool:
    good = True
    for kind in (code_answer, list_answer, mixed_answer, paragraph_answer):
        share, written = cost(kind(2000))
        good = good and share < 0.1 and written < 3
        print(f"{kind.__name__}, 2,000 lines at 300 tokens/s: {share:.1%} of one core, {written:.2f} times its bytes")
    share, _ = cost(table_answer(2000))
    print(f"table_answer, drawn 15 times a second: {share:.1%}; a chat draws it less often, for 6% of one core")
    return good


def seconds_to_prompt(home: str) -> tuple[float, float]:
    """Return how long a chat with the bundled model takes to ask for input, and how much of that is processor time."""
    master, slave = pty.openpty()
    environment = os.environ | {"GPTOSS_MAC_HOME": home, "PROMPT_TOOLKIT_NO_CPR": "1", "TERM": "xterm"}
    began = time.perf_counter()
    command = [sys.executable, "-m", "gptoss_mlx.cli", "chat", "--model", "tiny"]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, env=environment)
    os.close(slave)
    raw = b""
    while b"\x1b[?2004h" not in raw:
        if select.select([master], [], [], 60)[0]:
            raw += os.read(master, 65536)
    seconds = time.perf_counter() - began
    os.write(master, b"\x04")
    _, _, used = os.wait4(process.pid, 0)
    os.close(master)
    return seconds, used.ru_utime + used.ru_stime


def report_start() -> bool:
    with tempfile.TemporaryDirectory() as home:
        seconds_to_prompt(home)  # installs the bundled model
        runs = [seconds_to_prompt(home) for _ in range(7)]
    median = statistics.median(seconds for seconds, _ in runs)
    processor = statistics.median(used for _, used in runs)
    print(f"from chat to the prompt, bundled model: {median:.2f} s, median of 7; {processor:.2f} s of processor time")
    return median < 1.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--answers", type=int, default=5000)
    parser.add_argument("--documents", type=int, default=500)
    parser.add_argument("--folders", type=Path, nargs="*", default=[Path(sys.prefix), Path("/usr")])
    given = parser.parse_args()
    good = report_words("documents in packages", documents(given.folders, given.documents))
    good &= report_words("generated answers", ((f"seed {n}", answer(n)) for n in range(given.answers)))
    good &= report_cost()
    good &= report_start()
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
