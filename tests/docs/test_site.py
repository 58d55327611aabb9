"""The check of the built site notices what it is for."""

from pathlib import Path

import pytest

from tests.docs.site import leading_out, wrong


def site(folder: Path, body: str) -> Path:
    (folder / "index.html").write_text(f'<h1 id="top">A</h1><p><a href="https://example.org/">out</a></p>{body}')
    (folder / "other.html").write_text('<h2 id="here">B</h2>')
    (folder / "picture.svg").write_text("<svg/>")
    return folder


def test_a_whole_site_has_nothing_wrong_and_its_links_to_others_are_listed(tmp_path):
    body = '<a href="other.html#here">b</a><a href="#top">a</a><a href=".">c</a><img src="picture.svg">'
    assert list(wrong(site(tmp_path, body))) == []
    assert leading_out(tmp_path) == {"https://example.org/"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('<a href="gone.html">b</a>', "index.html links to gone.html, which is not there"),
        ('<a href="other.html#gone">b</a>', "index.html links to other.html#gone, which has no such anchor"),
        ('<a href="#gone">b</a>', "index.html links to #gone, which has no such anchor"),
        ('<img src="gone.svg">', "index.html loads gone.svg, which is not there"),
        ('<script src="https://cdn.example/x.js"></script>', "index.html loads https://cdn.example/x.js"),
        ('<link rel="stylesheet" href="//cdn.example/x.css">', "index.html loads //cdn.example/x.css"),
    ],
)
def test_what_is_broken_or_comes_from_elsewhere_is_said(tmp_path, body, said):
    assert list(wrong(site(tmp_path, body))) == [said]


def test_a_style_that_imports_from_elsewhere_is_said(tmp_path):
    (site(tmp_path, "") / "a.css").write_text('@import "https://fonts.example/x.css"; p { color: red }')
    assert list(wrong(tmp_path)) == ['a.css loads @import "https://fonts.example/x.css"']
