"""The Python of the documentation runs, and prints what stands below it."""

import json

import pytest
from tokenizers import Tokenizer as HubTokenizer

from gptoss_mlx import conversation
from gptoss_mlx.home import BUNDLED
from tests.docs.examples import Day, examples, pages, run
from tests.support.page_parts import DOCS, ROOT


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_a_pages_python_prints_what_stands_below_it(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(conversation, "Date", Day)  # what a model says may depend on the date that it reads
    for example, printed in run(page):
        if example.prints is not None:
            assert printed.rstrip().splitlines() == example.prints.rstrip().splitlines(), f"{page}:{example.block.line}"


def test_a_block_that_prints_something_else_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "Text.\n\n```python\na = 2\nprint(a)\n```\n\n```text\n3\n```\n\n```python\nprint(a + 1)\n```\n\nEnd.\n"
    )
    first, second = run(page)
    assert (first[0].prints, first[1], first[0].block.line) == ("3\n", "2\n", 4)
    assert (second[0].prints, second[1]) == (None, "3\n")
    assert examples(DOCS / "harmony.md")


def test_hugging_faces_tokenizer_makes_a_marker_of_typed_text_as_the_page_says():
    file = ROOT / "gptoss_mlx" / BUNDLED / "checkpoint" / "tokenizer.json"
    markers = {token["content"]: token["id"] for token in json.loads(file.read_text())["added_tokens"]}
    assert HubTokenizer.from_file(str(file)).encode("<|end|>").ids == [markers["<|end|>"]]
