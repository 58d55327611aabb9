"""The targets of the Makefile that people call, and what the comment before each says."""

import re
from pathlib import Path

MAKEFILE = Path(__file__).parent.parent.parent / "Makefile"
RULE = re.compile(r"((?:^# .*\n)*)^([a-z.][\w. -]*):(?!=)(?! ?(?:private|CONTENTS|PACKAGES))(?: .*)?$", re.MULTILINE)


def phony() -> set[str]:
    """Return the targets that are no files."""
    named = re.findall(r"^\.PHONY: ((?:.*\\\n)*.*)$", MAKEFILE.read_text(), re.MULTILINE)
    return set(" ".join(named).replace("\\\n", " ").split())


def described() -> dict[str, str]:
    """Return what each of these targets does, in the Makefile's order; "" where no comment says so."""
    found: dict[str, str] = {}
    for comment, targets in RULE.findall(MAKEFILE.read_text()):
        text = " ".join(line.removeprefix("# ") for line in comment.splitlines())
        for target in targets.split():
            if target in phony():
                found[target] = found.get(target) or text
    return found


def table() -> str:
    """Return the table of targets."""
    rows = [f"| `make {target}` | {text} |" for target, text in sorted(described().items())]
    return "\n".join(("| command | what it does |", "|---|---|", *rows))
