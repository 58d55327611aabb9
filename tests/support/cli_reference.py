"""The command line's reference in README.md: what ``--help`` prints.

``python -m tests.support.cli_reference`` rewrites the part between the markers; a test compares it.
"""

import os
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent.parent / "README.md"
BEGIN, END = "<!-- cli reference: made by `make readme` -->\n", "<!-- end of cli reference -->\n"
PROGRAM = "import sys; sys.argv[0] = 'gptoss-mac'; from gptoss_mlx.cli import main; main()"


def help_of(*command: str) -> str:
    """What ``gptoss-mac COMMAND --help`` prints on a terminal of 100 columns."""
    environment = os.environ | {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1", "TERM": "dumb"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=README.parent,
    )
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def reference() -> str:
    overview = help_of()
    texts = [overview]
    for name in _commands(overview):
        texts.append(help_of(name))
        texts += [help_of(name, inner) for inner in _commands(texts[-1])]
    return "\n\n".join(f"```text\n{text}\n```" for text in texts)


def _commands(text: str) -> list[str]:
    _, _, listed = text.partition("Commands:\n")
    return [line.split()[0] for line in listed.splitlines() if line[2:3].strip()]


def with_reference(readme: str) -> str:
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{reference()}\n\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    README.write_text(with_reference(README.read_text()))
