"""Put text on the clipboard: by the system's program, else through the terminal. Knows nothing of the text."""

import base64
import shutil
import subprocess
import sys

PROGRAMS = (("pbcopy",), ("wl-copy",), ("xclip", "-selection", "clipboard"))
SECONDS = 5


def copy(text: str) -> str:
    """Copy ``text`` and return through what. A terminal is asked by OSC 52, and may not obey."""
    for program in PROGRAMS:
        if shutil.which(program[0]):
            try:
                subprocess.run(program, input=text.encode(), timeout=SECONDS, check=True, stdout=subprocess.DEVNULL)
            except (OSError, subprocess.SubprocessError):  # as without a display
                continue
            return program[0]
    sys.stdout.write(f"\x1b]52;c;{base64.b64encode(text.encode()).decode()}\x07")
    sys.stdout.flush()
    return "the terminal"
