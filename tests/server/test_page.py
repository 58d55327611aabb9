"""The page at ``/``: what it may do in a browser, and that it never makes HTML of a text. ``make page-report`` opens it
in a browser."""

import base64
import hashlib
import re

import httpx2

from gptoss_mlx.server.page import FILE

BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def rules(response):
    return dict(rule.split(" ", 1) for rule in response.headers["content-security-policy"].split("; "))


def test_a_browser_gets_the_page_and_other_clients_what_they_look_for(server):
    page = server.get("/", headers=BROWSER)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.content == FILE.read_bytes()
    assert server.get("/").json().keys() == {"gptoss_mac"}


def test_only_the_page_s_own_script_and_style_may_run(server):
    page = server.get("/", headers=BROWSER)
    found = rules(page)
    for element in ("script", "style"):
        (text,) = re.findall(rf"<{element}>(.*?)</{element}>", page.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert found[f"{element}-src"] == f"'sha256-{digest}'"
    assert found["default-src"] == found["form-action"] == found["frame-ancestors"] == "'none'"
    assert found["connect-src"] == "'self'"
    assert found["trusted-types"] == "'none'"  # then no script can turn a text into HTML, whatever it tries
    assert found["require-trusted-types-for"] == "'script'"


def test_the_page_is_one_file_that_asks_for_nothing_elsewhere():
    text = FILE.read_text()
    assert len(text.splitlines()) <= 500
    assert not re.findall(r"\b(?:src|href|action|integrity)\s*=|https?:|@import|url\(", text)
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|Function\(|srcdoc", text)
    assert not re.findall(r"\son[a-z]+=\"|style=\"", text)  # the policy lets none of them work


def test_the_page_comes_without_the_key_which_it_asks_for(scripted):
    with scripted(key="sesame") as there:
        assert httpx2.get(there.url, headers=BROWSER).status_code == 200
        assert httpx2.get(f"{there.url}/v1/models", headers=BROWSER).status_code == 401


def test_health_says_what_the_model_in_memory_takes(server):
    memory = server.health()["memory"]
    assert 1e6 < memory["used"] < memory["planned"] * 1.5
