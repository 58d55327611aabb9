"""Prompts that a user keeps as TOML files, with the settings they are asked with. Knows no model and no terminal."""

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from gptoss_mlx.errors import UsageError, one_line, quoted
from gptoss_mlx.home import templates_dir

INPUT = "{input}"
"""Where what a template is used on goes. Without it that goes behind the template's prompt."""

_KINDS: dict[str, tuple[type, ...]] = {
    "prompt": (str,),
    "system": (str,),
    "model": (str,),
    "reasoning": (str,),
    "temperature": (int, float),
    "max_tokens": (int,),
}


@dataclass(frozen=True)
class Template:
    """A prompt and settings, each None or empty where the file does not have it."""

    prompt: str = ""
    system: str | None = None
    model: str | None = None
    reasoning: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None

    def filled(self, text: str) -> str:
        """Return the prompt for ``text``."""
        if INPUT in self.prompt:
            return self.prompt.replace(INPUT, text)
        return "\n\n".join(part for part in (self.prompt, text) if part.strip())


def read_template(name: str) -> Template:
    """Return the template of that name in the templates folder, or in the file ``name`` if that is a path to one.
    Raises UsageError if there is none, and for what it has that is unknown or of another type."""
    path = Path(name).expanduser() if name.endswith(".toml") else templates_dir() / f"{name}.toml"
    if not name.endswith(".toml") and path.parent != templates_dir():
        raise UsageError(f"'{name}' is no name of a template; a path to one ends in .toml")
    try:
        found = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError as error:
        known = ", ".join(template_names()) or f"none; make {templates_dir() / 'NAME.toml'}"
        raise UsageError(f"there is no template '{name}'; there are: {known}") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: it is not TOML in UTF-8 ({one_line(error)})") from error
    return Template(**{key: _value(path, key, value) for key, value in found.items()})


def template_names() -> list[str]:
    """Return the names of the templates there are."""
    return sorted(path.stem for path in templates_dir().glob("*.toml"))


def _value(path: Path, key: str, value: Any) -> Any:
    if key not in _KINDS:
        known = ", ".join(field.name for field in fields(Template))
        raise UsageError(f"{path}: {quoted(key)} is unknown; a template has {known}")
    if not isinstance(value, _KINDS[key]) or isinstance(value, bool):
        raise UsageError(f"{path}: {key} is {quoted(value)}; it must be {_KINDS[key][-1].__name__}")
    if key == "reasoning" and value not in ("low", "medium", "high"):
        raise UsageError(f"{path}: reasoning is {quoted(value)}; use low, medium or high")
    return value
