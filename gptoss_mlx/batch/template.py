"""A prompt made of the columns of a CSV line, such as ``Translate to {lang}: {text}``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Formatter

from gptoss_mlx.errors import UsageError, quoted


@dataclass(frozen=True)
class Template:
    """Texts, each followed by a column's value, or by nothing if its name is None."""

    pieces: tuple[tuple[str, str | None], ...]

    @classmethod
    def of(cls, text: str) -> "Template":
        """Read ``{name}`` as the column ``name``, and ``{{`` and ``}}`` as braces. Raises UsageError."""
        try:
            pieces = list(Formatter().parse(text))
        except ValueError as error:
            raise UsageError(f"--prompt: {error}; write {{{{ and }}}} for braces that name no column") from error
        for _, name, spec, conversion in pieces:
            if name == "" or spec or conversion:
                wrong = f"{{{name}{'!' + conversion if conversion else ''}{':' + spec if spec else ''}}}"
                raise UsageError(f"--prompt: {quoted(wrong)} names no column; write {{{{ and }}}} for braces")
        return cls(tuple((before, None if name is None else _known(name)) for before, name, _, _ in pieces))

    def check(self, columns: Sequence[str], source: str) -> None:
        """Raise UsageError for a name that is none of the columns'."""
        known = [_known(column) for column in columns]
        for _, name in self.pieces:
            if name is not None and known.count(name) != 1:
                why = "has no column" if name not in known else "has several columns"
                listed = ", ".join(columns)[:200]
                raise UsageError(f"--prompt: {source} {why} {quoted(name)}; it has {listed}")

    def fill(self, fields: Mapping[str, str]) -> str:
        """Return the prompt of a line with these columns."""
        values = {_known(column): value for column, value in fields.items()}
        return "".join(before + ("" if name is None else values[name]) for before, name in self.pieces)


def _known(column: str) -> str:
    return column.strip().lower()
