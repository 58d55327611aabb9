"""Names of modules and functions that pages and pictures tell readers to look for are there."""

import importlib
import re
from xml.etree import ElementTree

import pytest

from tests.docs.pages import DOCS

PACKAGES = ("gptoss_mlx", "metal_kernels", "convert")
PAGES = ("how-it-works", "harmony", "shaders", "architecture", "limits")
FILES = ("md", "py", "metal", "json")


def is_there(name):
    """Return whether a dotted name is a module, or something in one, from the top or inside a package."""
    parts = name.split(".")
    for start in ([], *([package] for package in PACKAGES)):
        path = [*start, *parts]
        for length in range(len(path), 0, -1):
            try:
                found = importlib.import_module(".".join(path[:length]))
            except ModuleNotFoundError as error:
                if length == len(path) and not (error.name or "").startswith(PACKAGES) and error.name != path[0]:
                    return True  # it is there, and imports another program that is not installed
                continue
            for part in path[length:]:
                found = getattr(found, part, None)
            if found is not None:
                return True
            break
    return False


@pytest.mark.parametrize("page", PAGES)
def test_dotted_names_on_a_page_are_there(page):
    text = re.sub(r"^```.*?^```$", "", (DOCS / f"{page}.md").read_text(), flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`([a-z]\w*(?:\.\w+)+)`", text))
    names = {name for name in named if name.rpartition(".")[2] not in FILES}
    assert sorted(name for name in names if not is_there(name)) == []


def test_names_in_pictures_are_there():
    named = set()
    for file in (DOCS / "images").glob("*.svg"):
        for text in ElementTree.parse(file).iter("{http://www.w3.org/2000/svg}text"):
            if "code" in text.attrib.get("class", "").split():
                named |= set((text.text or "").split(", "))
    assert len(named) > 5
    assert sorted(name for name in named if not is_there(name)) == []


def test_a_name_that_is_gone_is_noticed():
    assert is_there("memory.plan")
    assert is_there("metal_kernels.launch")
    assert is_there("harmony.drop_thoughts")
    assert is_there("bench.mlx_lm_worker")  # whether mlx-lm is installed or not
    assert not is_there("engine.memory_plan")
    assert not is_there("bench.mlx_worker")
    assert not is_there("launch.no_such_operation")
