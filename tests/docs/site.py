"""``make docs``: check the site that MkDocs built, as a browser without a network would find it.

``python -m tests.docs.site FOLDER`` exits with 1 if a link of a page leads to no file or no anchor of the site, or if a
page loads something from elsewhere. It lists links to other sites and does not follow them.
"""

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src"), ("object", "data")}
NOWHERE = "404.html"  # a server shows it at any address, so its links begin at the server's root
ELSEWHERE = re.compile(r"(https?:)?//", re.IGNORECASE)


class Page(HTMLParser):
    """The anchors of a page, where its links lead, and what it loads. Links of the kind ``canonical`` load nothing."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        for name, value in found.items():
            if (tag, name) in LOADED and found.get("rel") not in ("canonical", "next", "prev"):
                self.loaded.append(value)


def wrong(folder: Path) -> Iterator[str]:
    """Yield what is wrong with the site in ``folder``, one line each."""
    pages = {path: Page(path.read_text()) for path in sorted(folder.rglob("*.html")) if path.name != NOWHERE}
    for path, page in pages.items():
        name = path.relative_to(folder)
        for url in page.loaded:
            if ELSEWHERE.match(url):
                yield f"{name} loads {url}"
            elif not (path.parent / urlsplit(url).path).is_file() and not url.startswith("data:"):
                yield f"{name} loads {url}, which is not there"
        for url in page.links:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if target.is_dir():
                target /= "index.html"
            if not target.is_file():
                yield f"{name} links to {url}, which is not there"
            elif parts.fragment and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{name} links to {url}, which has no such anchor"
    for path in folder.rglob("*.css"):
        if found := re.search(r"@import[^;]*//[^;]*|url\(['\"]?(https?:)?//[^)]*", path.read_text()):
            yield f"{path.relative_to(folder)} loads {found[0]}"


def leading_out(folder: Path) -> set[str]:
    """Return the addresses on other sites that pages link to."""
    links = {url for path in folder.rglob("*.html") for url in Page(path.read_text()).links}
    return {url for url in links if ELSEWHERE.match(url)}


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    for url in sorted(leading_out(folder)):
        print(f"not followed: {url}")
    found = list(wrong(folder))
    for line in found:
        print(line)
    pages = len(list(folder.rglob("*.html")))
    print(f"{pages} pages in {folder}, {len(found)} broken links or resources. Open {folder}/index.html in a browser.")
    sys.exit(bool(found) or not pages)


if __name__ == "__main__":
    main()
