"""``make screens``: use the chat in tmux as a person would, in windows of three sizes, and take pictures of it. Record
README's picture anew.

Exits with 1 if a word is missing or something else is wrong. The pictures are SVG, and PNG where chromium is installed.
"""

import argparse
import io
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, DIMMED_MONOKAI
from rich.text import Text

from tests.screen.program import SAMPLE
from tests.screen.tmux import INSTALLED, Tmux
from tests.screen.words import missing

ROOT = Path(__file__).parent.parent.parent
NUMBERS = itertools.count()
SIZES = ((100, 30), (60, 20), (40, 20))
THEMES = {"light": DEFAULT_TERMINAL_THEME, "dark": DIMMED_MONOKAI}
PASTED = "\n".join(f"pasted line {n}" for n in range(1, 50)) + "\nhow many lines?"

TOOL = '''
def calculate(expression: str) -> str:
    """Evaluate a math expression."""
    a, b = expression.split("*")
    return str(int(a) * int(b))
'''


class Session:
    """A chat in tmux, and the pictures taken of it."""

    def __init__(self, home, folder, columns, lines, module="tests.screen.program", options=""):
        self.columns, self.height = columns, lines
        self.folder = folder
        environment = {
            "GPTOSS_MAC_HOME": home,
            "PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT)),
            "TERM": "tmux-256color",
        }
        command = (
            f"cd {ROOT}; echo begun; "
            f"{sys.executable} -m {module} chat --model tiny --temperature 0 {options}; echo ended $?"
        )
        self.tmux = Tmux(f"gptoss{os.getpid()}-{next(NUMBERS)}", columns, lines, command, environment)

    def ask(self, text, until):
        self.tmux.type(text)
        self.tmux.keys("Enter")
        return self.tmux.wait_for(until)

    def picture(self, name):
        rows = self.tmux.rows(colours=True)
        console = Console(
            record=True, width=self.columns, file=io.StringIO(), color_system="truecolor", force_terminal=True
        )
        console.print(Text.from_ansi("\n".join(rows)), no_wrap=True, overflow="ignore", crop=False)
        for theme, colours in THEMES.items():
            path = self.folder / f"{name}-{self.columns}x{self.height}-{theme}.svg"
            path.write_text(console.export_svg(title=f"{self.columns}x{self.height}", theme=colours, clear=False))

    def close(self):
        self.tmux.close()


def prompt_free(session):
    session.tmux.wait_for(r"(?m)^>( |$)(?![\s\S]*\n>)")


def ended_replies(text):
    return text.count("tokens/s")


def wait_replies(session, count):
    end = time.monotonic() + 60
    while ended_replies(text := "\n".join(session.tmux.lines())) < count:
        assert time.monotonic() < end, text
        time.sleep(0.05)
    time.sleep(0.3)
    return "\n".join(session.tmux.lines())


def check(session):
    """Yield what is wrong in a chat used from its start to its end."""
    tmux = session.tmux
    tmux.wait_for(r"(?m)^>")
    time.sleep(0.5)
    session.picture("begin")
    tmux.paste(PASTED)
    tmux.wait_for("how many lines")
    session.picture("paste")
    tmux.keys("Enter")
    text = wait_replies(session, 1)
    if "Your message has 50 lines." not in text:
        yield f"a paste of 50 lines is not one message: {text[-300:]}"
    session.ask("a sample", "A paragraph")
    session.picture("answer")
    text = wait_replies(session, 2)
    session.picture("sample")
    shown = text.split("> a sample", 1)[1].splitlines()
    if lost := missing(SAMPLE, shown):
        yield f"not on the screen: {lost!r}"
    if not any(line.startswith("日本語") or "日本語のテキスト" in line for line in shown):
        yield "the wide text is torn"
    session.ask("think a lot", "thinking, [0-9,]{3}")
    time.sleep(0.3)
    session.picture("thought")
    tmux.keys("C-c")
    text = wait_replies(session, 3)
    if "stopped by you, while still thinking" not in text:
        yield f"Ctrl-C in the thought: {text[-300:]}"
    session.ask("count to 120", "line number 20 ")
    tmux.keys("C-c")
    text = wait_replies(session, 4)
    if not text.split("count to 120")[1].count("stopped by you"):
        yield f"Ctrl-C in the answer: {text[-300:]}"
    tmux.type("half a line")
    tmux.keys("C-c")
    time.sleep(0.3)
    tmux.type("日本語🙂e")
    tmux.keys("BSpace", "BSpace", "x")
    time.sleep(0.3)
    row = next(row for row in reversed(tmux.rows()) if row.startswith(">"))
    if row.split() != [">", "日本語x"]:
        yield f"editing wide characters leaves {row!r}"
    session.picture("editing")
    tmux.keys("C-c")
    yield from resized(session)
    tmux.keys("C-d")
    if "ended 0" not in tmux.wait_for("ended \\d+"):
        yield "Ctrl-D does not end it with code 0"
    if "Traceback" in "\n".join(tmux.lines()):
        yield "a traceback"


def resized(session):
    """Resize the window in the middle of a thought and of an answer. Each line is there once."""
    tmux, columns, height = session.tmux, session.columns, session.height
    tmux.type("think, resized")
    tmux.keys("Enter")
    tmux.wait_for("thinking, [0-9,]{3}")
    for width in (columns - 12, columns + 7, columns - 5, columns):
        tmux.resize(width, height)
        time.sleep(0.4)
    text = wait_replies(session, 5)
    part = text.split("> think, resized")[-1]
    if text.count("> think, resized") != 1:
        yield "a resize in a thought loses or doubles the message before it"
    left = [line for line in part.splitlines() if "carry" in line]
    if left:
        yield f"a resize in a thought leaves {left[:2]} behind"
    tmux.type("count, resized")
    tmux.keys("Enter")
    tmux.wait_for("resized[\\s\\S]*line number 10 ")
    for width in (columns - 12, columns + 7, columns - 5, columns):
        tmux.resize(width, height)
        time.sleep(0.4)
    part = wait_replies(session, 6).split("> count, resized")[-1]
    wrong = [
        n for n in range(1, 121) if part.count(f"This is line number {n} of the answer, no more and no less.") != 1
    ]
    if wrong:
        yield f"a resize in an answer loses or doubles lines {wrong[:5]}"


def asked(session):
    """Yield what is wrong when a call is asked about: refused, allowed, and stopped by Ctrl-C."""
    tmux = session.tmux
    tmux.wait_for(r"(?m)^>")
    session.ask("What is 23 * 47?", "Run calculate\\?")
    time.sleep(0.3)
    session.picture("question")
    shown = "".join(tmux.lines())
    if "23" not in shown.split("→ calculate(")[-1].split("Run calculate?")[0]:
        yield f"the call is not shown before the question: {shown[-300:]}"
    tmux.type("n")
    tmux.keys("Enter")
    text = wait_replies(session, 1)
    session.picture("refused")
    if "1,081" in text or "← 1081" in text:
        yield "a refused call was made"
    prompt_free(session)
    session.ask("What is 58 * 36?", "58[\\s\\S]*Run calculate\\?")
    tmux.type("y")
    tmux.keys("Enter")
    text = wait_replies(session, 2)
    session.picture("allowed")
    if "← 2088" not in text:
        yield f"a result is not shown: {text[-300:]}"
    prompt_free(session)
    session.ask("What is 61 * 44?", "61[\\s\\S]*Run calculate\\?")
    tmux.keys("C-c")
    time.sleep(1)
    session.picture("stopped")
    text = "\n".join(tmux.lines())
    if "← 2684" in text or "ended" in text.split("61 * 44")[-1]:
        yield f"Ctrl-C at the question: {text[-300:]}"
    prompt_free(session)
    tmux.keys("C-d")
    if "ended 0" not in (text := tmux.wait_for("ended \\d+")) or "Traceback" in text:
        yield f"Ctrl-D after calls: {text[-300:]}"


def early(home, folder):
    """Yield what is wrong when Ctrl-C comes within the first half second. Python itself, while it starts, says that it
    was interrupted; from the first line of ours on nothing may be said."""
    for seconds in (0.1, 0.2, 0.3, 0.4, 0.5):
        session = Session(home, folder, 60, 20, "gptoss_mlx.cli")
        try:
            session.tmux.wait_for("begun")
            time.sleep(seconds)
            session.tmux.keys("C-c")
            text = session.tmux.wait_for("(?m)ended \\d+|^>")
            if "Traceback" in text and "/gptoss_mlx/" not in text:
                continue
            if "Traceback" in text or ("ended" in text and "ended 130" not in text):
                yield f"Ctrl-C after {seconds} s: {text.strip()}"
        finally:
            session.close()


def found_in(use, session):
    """Return what is wrong in a session, which is closed at the end."""
    try:
        return list(use(session))
    except AssertionError as error:
        return [str(error)]
    finally:
        session.close()


def to_png(folder):
    """Turn the pictures into PNG, where there is a chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    for path in sorted(folder.glob("*.svg")) if chromium else ():
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1280,860"]
        target = path.with_suffix(".png")
        command = [chromium, *options, f"--screenshot={target}", path.as_uri()]
        subprocess.run(command, capture_output=True, timeout=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "screens")
    out = parser.parse_args().out
    if not INSTALLED:
        sys.exit("tmux is not installed; Debian and Homebrew have it as tmux")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    wrong = []
    with tempfile.TemporaryDirectory() as home:
        tool = Path(home) / "calc.py"
        tool.write_text(TOOL)
        for columns, lines in SIZES:
            found = found_in(check, Session(home, out, columns, lines))
            found += found_in(asked, Session(home, out, columns, lines, "gptoss_mlx.cli", f"--tools {tool}"))
            print(f"{columns}x{lines}: {found or 'all right'}", flush=True)
            wrong += found
        found = list(early(home, out))
        print(f"Ctrl-C in the first half second: {found or 'all right'}", flush=True)
        wrong += found
    subprocess.run([sys.executable, "-m", "tests.screen.take_recording"], check=True, cwd=ROOT)
    to_png(out)
    print(f"pictures in {out.relative_to(ROOT) if out.is_relative_to(ROOT) else out}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
