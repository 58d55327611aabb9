"""Lints a shader as ``mx.fast.metal_kernel`` would compile it.

Run as ``python -m metal_kernels.emulator FILE.metal [NAME=VALUE ...]``. Template parameters have their defaults unless
given: ROWS=8, TAIL=true, T=bfloat16.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from metal_kernels.emulator.errors import EmulatorError, LintError
from metal_kernels.emulator.kernel import function_of
from metal_kernels.emulator.lint import lint
from metal_kernels.source import MetalSource, SourceError, TemplateValue

USAGE = "usage: python -m metal_kernels.emulator FILE.metal [NAME=VALUE ...]"


def explain(error: LintError, folder: Path) -> str:
    """Return the findings, each with its source line and a mark under the column."""
    parts = []
    for finding in error.findings:
        parts.append(f"{finding.place}: {finding.message}")
        file = folder / finding.place.file
        if finding.place.line and file.is_file():
            lines = file.read_text().splitlines()
            if finding.place.line <= len(lines):
                parts.append("    " + lines[finding.place.line - 1])
                if finding.place.column:
                    parts.append("    " + " " * (finding.place.column - 1) + "^")
    return "\n".join(parts)


def value(text: str) -> TemplateValue:
    """Return a template argument from the command line as bool, int or the name of a dtype."""
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.lstrip("-").isdigit() else text


def main(arguments: Sequence[str]) -> int:
    """Lint one file and print the result. Return the exit code: 0, 1 for a defect, 2 for a wrong call."""
    if not arguments or arguments[0].startswith("-"):
        print(USAGE, file=sys.stderr)
        return 2
    path = Path(arguments[0])
    try:
        given = {name: value(text) for name, _, text in (argument.partition("=") for argument in arguments[1:])}
        source = MetalSource.read(path)
        function = function_of(source, given)
        lint(function)
    except LintError as error:
        print(explain(error, path.parent), file=sys.stderr)
        return 1
    except (EmulatorError, SourceError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    template = ", ".join(f"{name}={v}" for name, v in source.template_values(given).items())
    print(f"{path.name}: {source.name}<{template}> passes the lint")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
