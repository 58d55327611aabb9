"""The recording in README: a person asks the bundled model on a command line, in a pipe, and in a chat.

``make screens`` takes it anew. ``python -m tests.screen.take_recording`` takes it alone.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

from gptoss_mlx.bundled import install_tiny
from tests.screen.recording import Frame, svg
from tests.screen.tmux import Tmux

ROOT = Path(__file__).parent.parent.parent
PICTURE = ROOT / "docs" / "images" / "terminal.svg"
COLUMNS, LINES = 76, 26
LABEL = "gptoss-mac answers on a command line, in a pipe and in a chat, with the bundled small model"


def take(tmux: Tmux) -> list[Frame]:
    """Use a shell in ``tmux`` and return what was on its screen."""
    frames: list[Frame] = []

    def keep(seconds: float) -> None:
        frames.append(Frame(tuple(tmux.rows(colours=True)), seconds))

    def type_slowly(text: str) -> None:
        for begin in range(0, len(text), 4):
            tmux.type(text[begin : begin + 4])
            time.sleep(0.08)
            keep(0.12)

    def enter(until: str, seconds: float) -> None:
        tmux.keys("Enter")
        tmux.wait_for(until)
        time.sleep(0.6)
        keep(seconds)

    tmux.wait_for(r"(?m)^\$")
    keep(0.6)
    type_slowly('gptoss-mac run --model tiny "What is 347 + 58?"')
    enter(r"= \d+[\s\S]*\n\$", 2.4)
    type_slowly('echo "What is 62 - 17?" | gptoss-mac run --model tiny')
    enter(r"62 - 17 = \d+[\s\S]*\n\$", 1.8)
    type_slowly("gptoss-mac chat --model tiny")
    enter(r"\n>", 1.0)
    type_slowly("What is 12 + 30?")
    enter(r"tokens/s", 1.8)
    type_slowly("What is 500 - 137?")
    enter(r"= 363", 6.0)
    return frames


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        os.environ["GPTOSS_MAC_HOME"] = home
        install_tiny()
        environment = {
            "GPTOSS_MAC_HOME": home,
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PS1": "$ ",
            "TERM": "tmux-256color",
        }
        tmux = Tmux(f"recording{os.getpid()}", COLUMNS, LINES, f"cd {home}; bash --norc --noprofile", environment)
        try:
            frames = take(tmux)
        finally:
            tmux.close()
    PICTURE.write_text(svg(frames, COLUMNS, LABEL))


if __name__ == "__main__":
    main()
