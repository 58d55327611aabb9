"""``make page-report``: the page in headless Chromium, on a model that writes hostile text.

``python -m tests.page PYTHON FOLDER`` uses the browser with that Python, in which playwright is installed, and Debian's
or Homebrew's ``chromium``. Screenshots go to FOLDER. It exits with 1 if a script ran or a text is not shown as it is.
"""

import json
import subprocess
import sys
from pathlib import Path

from gptoss_mlx.harmony import Tokenizer
from tests.page.payloads import payloads
from tests.support.harmony_streams import CHANNEL, END, MESSAGE, RETURN, START, encode
from tests.support.served import scripted_server

BROWSE = Path(__file__).parent / "browse.py"
CODE = (
    "In Python, integers add with `+`, and they never overflow:\n\n```python\ndef add(a: int, b: int) -> int:\n"
    '    """Return the sum of a and b, however large they are, because Python\'s integers have no fixed width."""\n'
    "    return a + b\n\n\nprint(add(12, 30))\n```\n\nThat prints 42. A function is more than you need here; "
    "`print(12 + 30)` does the same."
)


def says(thought: str, answer: str) -> list:
    return [CHANNEL, "analysis", MESSAGE, thought, END, START, "assistant", CHANNEL, "final", MESSAGE, answer, RETURN]


def main() -> None:
    python, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.bundled()

    def serve(*replies: list, **options):
        return scripted_server(tokenizer, *(encode(r, tokenizer.special, tokenizer.encode) for r in replies), **options)

    talk = [says("12 + 30 is 42.", "12 + 30 = 42."), says("They want Python. A short function, then a note.", CODE)]
    with serve(*talk, *talk, pause=0.002) as there:
        browse(python, "shots", there.url, folder)
    with serve([CHANNEL, "final", MESSAGE, " and on" * 3000], talk[0], pause=0.002) as there:
        browse(python, "stop", there.url, "-")
        there.wait_until_idle()
        assert there.rows.steps < 2000, "a reply that was stopped went on"
    texts = payloads()
    given = folder / "payloads.json"
    given.write_text(json.dumps(texts))
    with serve(*(says(text, text) for text, _ in texts)) as there:
        found = json.loads(browse(python, "payloads", there.url, given))
    for one in (*found["wrong"], *found["events"]):
        print(one)
    print(f"{found['asked']} hostile texts, as thought and as answer: {len(found['wrong'])} ran or were not shown as")
    print(f"text, {len(found['events'])} events; set as HTML, {found['naive']} of them run. Screenshots in {folder}")
    sys.exit(bool(found["wrong"] or found["events"] or not found["naive"]))


def browse(python: str, *arguments: object) -> str:
    command = [python, str(BROWSE), *map(str, arguments)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


main()
