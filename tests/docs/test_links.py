"""Where the pages lead, as they are read on GitHub. ``make docs`` checks the site that is made of them."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.pages import DOCS, README, ROOT, all_pages, anchors, links

TASKS = (
    "quick-start.md",
    "chat.md",
    "scripts.md#a-file-of-prompts",
    "scripts.md#pipes",
    "server.md#codex-claude-code-and-opencode",
    "server.md#open-webui",
    "tools.md#mcp-servers",
    "structured.md",
    "weights.md",
    "memory.md#a-16-gb-mac",
    "several-macs.md",
    "bench.md",
    "predictions.md",
    "inspect.md",
    "mlx-lm.md",
    "how-it-works.md",
    "harmony.md",
    "shaders.md",
    "troubleshooting.md",
    "python.md",
    "limits.md",
    "commands.md#exit-codes",
    "measured.md",
)
"""What a reader comes for, and where it stands."""


def inside(page: Path) -> Iterator[tuple[str, Path, str]]:
    """Yield each link of a page within the project: as written, its file, its anchor."""
    for link in links(page):
        parts = urlsplit(link)
        if not parts.scheme:
            yield link, (page.parent / unquote(parts.path)).resolve() if parts.path else page, parts.fragment


@pytest.mark.parametrize("page", all_pages(), ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page):
    for link, target, anchor in inside(page):
        assert target.exists(), link
        if page != README:
            assert target.is_relative_to(DOCS), f"{link} leaves the site"
        if anchor:
            assert target.suffix != ".md" or anchor in anchors(target), f"{link}: no such heading"


def test_each_task_is_two_clicks_from_readme():
    reached = {README}
    for _ in range(2):
        reached |= {target for page in reached if page.suffix == ".md" for _, target, _ in inside(page)}
    for task in TASKS:
        name, _, anchor = task.partition("#")
        assert DOCS / name in reached, f"{name} is further than two clicks from README"
        assert not anchor or anchor in anchors(DOCS / name), f"{task}: no such heading"


def test_each_page_is_a_task_or_known_to_be_none():
    assert {page.name for page in all_pages()} == {task.partition("#")[0] for task in TASKS} | {
        README.name,
        "index.md",
        "architecture.md",
    }
    assert (ROOT / "mkdocs.yml").read_text().count(".md\n") == len(all_pages()) - 1


def test_readme_fits_a_screen():
    assert len(README.read_text().splitlines()) <= 65
