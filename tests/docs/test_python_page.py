"""The page of the Python API has all that is public, and names nothing that is not there."""

import importlib
import inspect
import re

import gptoss_mlx
from tests.support.page_parts import DOCS

PAGE = (DOCS / "python.md").read_text()
NAMED = re.findall(r"^::: ([\w.]+)(?:\n    options:((?:\n      .*)+))?", PAGE, re.MULTILINE)


def found(path):
    """Return what a dotted path names: a module, or what is in one."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        try:
            there = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:]:
            there = getattr(there, name)
        return there
    raise AssertionError(f"{path} is nothing")


def test_every_exported_name_is_on_the_page():
    paths = {path for path, _ in NAMED}
    errors = {name for name in gptoss_mlx.__all__ if name.endswith("Error") and name != "ToolError"}
    assert "gptoss_mlx.errors" in paths
    assert all(hasattr(found("gptoss_mlx.errors"), name) for name in errors)
    others = {*gptoss_mlx.__all__} - errors - {"__version__", "harmony"}
    assert {name for name in others if f"gptoss_mlx.{name}" not in paths} == set()


def test_what_the_page_names_is_there_and_says_what_it_is():
    assert len(NAMED) > 20
    for path, options in NAMED:
        one = found(path)
        assert inspect.getdoc(one), path
        for member in re.findall(r"\w+", "".join(re.findall(r"members: \[(.*)\]", options))):
            assert inspect.getdoc(getattr(one, member)), f"{path}.{member}"
