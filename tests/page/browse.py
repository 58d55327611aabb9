"""Use the page in headless Chromium. Runs where playwright is installed, and imports nothing of ours.

``payloads URL FILE`` asks once for each text of a JSON file, which the server's model then says, and prints what was
found. ``shots URL FOLDER`` asks two questions and takes screenshots. ``stop URL -`` stops an endless reply, and has the
next one made in its place.
"""

import json
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

WIDTHS = {1280: 800, 390: 844}
ALLOWED = {"DIV", "SPAN", "BUTTON", "PRE", "CODE", "DETAILS", "SUMMARY"}


def ask(page: Page, text: str) -> None:
    """Send a message and wait for the end of the reply."""
    page.fill("#say", text)
    page.press("#say", "Enter")
    page.wait_for_selector("#send:not([hidden])", timeout=60_000)
    page.wait_for_selector("article.model:last-of-type button:has-text('Retry')", timeout=60_000)


def payloads(page: Page, url: str, texts: list[tuple[str, str]]) -> dict:
    """Have the model say each text, which it does as its thought and as its answer, and compare with what is shown."""
    events: list[str] = []
    page.on("dialog", lambda dialog: (events.append(f"dialog {dialog.message}"), dialog.dismiss()))
    page.on("console", lambda message: events.append(f"console {message.text}"))
    page.on("pageerror", lambda error: events.append(f"error {error}"))
    page.on("request", lambda request: request.url.startswith(url) or events.append(f"request {request.url}"))
    page.goto(url)
    wrong = []
    for number, (text, shown) in enumerate(texts):
        ask(page, f"say {number}")
        page.wait_for_timeout(5)
        found = page.evaluate(
            """() => {
                const last = [...document.querySelectorAll('article.model')].at(-1);
                const names = [...last.querySelectorAll('*')].map((one) => one.nodeName);
                return {ran: window.ran, names, thought: last.querySelector('details .text')?.textContent,
                        answer: last.querySelector('.answer').textContent};
            }"""
        )
        alien = set(found["names"]) - ALLOWED
        if found["ran"] or alien or found["thought"] != text or found["answer"] != shown:
            wrong.append({"text": text, "alien": sorted(alien), **found})
        if number % 20 == 19:
            page.click("#fresh")
    return {"asked": len(texts), "wrong": wrong, "events": events}


def naive(page: Page, texts: list[tuple[str, str]]) -> int:
    """Return how many of the texts run where a page sets them as HTML, so that the check above is known to notice."""
    ran = 0
    for text, _ in texts:
        page.goto("about:blank")
        page.set_content(f"<!doctype html><body>{text}", wait_until="domcontentloaded")
        page.wait_for_timeout(30)
        try:
            ran += bool(page.evaluate("window.ran"))
        except Exception:  # it has navigated
            ran += 1
    return ran


def shots(page: Page, url: str, folder: Path) -> None:
    """Take screenshots in light and dark, wide and narrow."""
    for shade in ("light", "dark"):
        page.emulate_media(color_scheme=shade)
        page.set_viewport_size({"width": 1280, "height": 800})
        page.goto(url)
        page.wait_for_timeout(300)
        page.screenshot(path=folder / f"empty-1280-{shade}.png")
        ask(page, "What is 12 + 30?")
        ask(page, "How would I write that in Python? Please explain it with a long line of text, so that it wraps.")
        page.locator("summary").last.click()
        for width, height in WIDTHS.items():
            page.set_viewport_size({"width": width, "height": height})
            page.wait_for_timeout(200)
            page.screenshot(path=folder / f"chat-{width}-{shade}.png")


def stop(page: Page, url: str) -> None:
    """Stop a reply that does not end, then retry it."""
    page.goto(url)
    page.fill("#say", "Go on")
    page.press("#say", "Enter")
    page.wait_for_selector(".answer .text")
    page.click("#stop")
    page.wait_for_selector(".meta:has-text('Stopped')")
    page.click("button:has-text('Retry')")
    page.wait_for_selector(".answer:has-text('12 + 30 = 42.')")
    assert page.locator("article.model").count() == page.locator("article.user").count() == 1


def main() -> None:
    what, url, given = sys.argv[1:]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        if what == "shots":
            shots(page, url, Path(given))
        elif what == "stop":
            stop(page, url)
        else:
            texts = json.loads(Path(given).read_text())
            found = payloads(page, url, texts)
            print(json.dumps(found | {"naive": naive(browser.new_page(), texts)}))
        browser.close()


main()
