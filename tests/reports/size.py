"""``make size-report``: what `pip install` of the wheel puts on a disk, by package.

``python -m tests.reports.size PYTHON WHEEL`` installs the wheel, without extras, into a new environment of that Python,
and prints what each package takes there, the bytecode that pip compiles included. Exits with 1 if it is more than MOST
in all. The environment itself and its pip are not counted.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

MOST = 200_000_000

LISTED = 0.015
"""The least part of the whole that has a row of its own."""

SIZES = """
import importlib.metadata, json, os, sys
found = {}
for one in importlib.metadata.distributions():
    paths = {os.path.realpath(one.locate_file(path)) for path in one.files or ()}
    found[one.metadata["Name"]] = [one.version, sum(os.stat(path).st_size for path in paths if os.path.isfile(path))]
json.dump(found, sys.stdout)
"""


def installed(python: str, wheel: Path) -> dict[str, tuple[str, int]]:
    """Return the version and the bytes of each package that the wheel brings with it, and its own."""
    with tempfile.TemporaryDirectory() as folder:
        own = str(Path(folder) / "venv/bin/python")
        subprocess.run([python, "-m", "venv", f"{folder}/venv"], check=True)
        before = json.loads(subprocess.check_output([own, "-I", "-c", SIZES]))
        install = [own, "-I", "-m", "pip", "install", "--quiet", str(wheel)]
        subprocess.run(install, check=True)
        after = json.loads(subprocess.check_output([own, "-I", "-c", SIZES]))
    return {name: (version, size) for name, (version, size) in after.items() if name not in before}


def table(sizes: dict[str, tuple[str, int]]) -> str:
    """Return the rows of a table, the largest first, and the sum."""
    total = sum(size for _, size in sizes.values())
    rows = sorted(((size, name, version) for name, (version, size) in sizes.items()), reverse=True)
    large = [row for row in rows if row[0] >= total * LISTED]
    small = rows[len(large) :]
    lines = ["| package | version | MB |", "|---|---|---|"]
    lines += [f"| {name} | {version} | {size / 1e6:.1f} |" for size, name, version in large]
    if small:
        lines.append(f"| {len(small)} others | | {sum(row[0] for row in small) / 1e6:.1f} |")
    return "\n".join([*lines, f"| in all, {len(rows)} packages | | {total / 1e6:.1f} |"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("python")
    parser.add_argument("wheel", type=Path)
    options = parser.parse_args()
    sizes = installed(options.python, options.wheel)
    print(table(sizes))
    total = sum(size for _, size in sizes.values())
    if total > MOST:
        print(f"missed: {total / 1e6:.1f} MB, {MOST / 1e6:.0f} are allowed")
        sys.exit(1)


if __name__ == "__main__":
    main()
