"""Who may ask: names, pages and keys, at the real process and rule by rule."""

import httpx2
import pytest

from gptoss_mlx.server.guard import Guard

CHAT = {"messages": [{"role": "user", "content": "What is 2 + 2?"}], "max_tokens": 2}
PATHS = ["/health", "/v1/models", "/", "/api/tags", "/v1/responses/x", "/nothing"]


@pytest.mark.parametrize("path", PATHS)
def test_another_name_or_page_is_refused_on_every_path(server, path):
    for headers in ({"host": "evil.example"}, {"host": "evil.example:8080"}, {"origin": "http://evil.example"}):
        assert server.get(path, headers=headers).status_code == 403
    assert server.get(path, headers={"origin": "null"}).status_code == 403


def test_the_server_s_own_names_and_pages_are_answered(server):
    port = server.url.rpartition(":")[2]
    for name in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert server.get("/health", headers={"host": name, "origin": f"http://{name}"}).status_code == 200


def test_no_page_is_let_in_by_cors_unless_asked(server):
    asks = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    response = httpx2.options(f"{server.url}/v1/chat/completions", headers=asks)
    assert response.status_code >= 400
    assert not [name for name in response.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_errors_are_in_the_words_of_the_client_s_api(server, path):
    error = server.post(path, CHAT, headers={"host": "evil.example"}).json()
    assert error["error"]["type"] == "permission_error"
    assert (error.get("type") == "error") == (path == "/v1/messages")


def test_a_key_is_asked_for_everywhere_and_an_origin_can_be_let_in(scripted):
    page = "http://page.example"
    with scripted(key="sesame", origins=[page]) as there:
        models, messages = f"{there.url}/v1/models", f"{there.url}/v1/messages"
        for headers in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": "sesam"}, {"authorization": "sesame"}):
            assert httpx2.get(models, headers=headers).status_code == 401
            assert httpx2.post(messages, json=CHAT, headers=headers).status_code == 401
        for headers in ({"authorization": "Bearer sesame"}, {"x-api-key": "sesame"}):
            assert httpx2.get(models, headers=headers).status_code == 200
        assert httpx2.get(f"{there.url}/health").status_code == 200
        allowed = httpx2.get(models, headers={"authorization": "Bearer sesame", "origin": page})
        assert allowed.headers["access-control-allow-origin"] == page


def headers(host="127.0.0.1", **more):
    pairs = {"host": host} | more
    return [(name.replace("_", "-").encode(), value.encode()) for name, value in pairs.items()]


def refused(guard, given, path="/v1/models"):
    return guard.problem({"type": "http", "path": path, "method": "GET", "headers": given})


@pytest.mark.parametrize(
    ("bound", "host", "answered"),
    [
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "[::1]:9", True),
        ("127.0.0.1", "192.168.1.5", False),
        ("127.0.0.1", "mac.local", False),
        ("127.0.0.1", "", False),
        ("127.0.0.1", "localhost.evil.example", False),
        ("127.0.0.1", "user@localhost:x", False),
        ("0.0.0.0", "192.168.1.5:8080", True),
        ("0.0.0.0", "mac.local", True),
        ("0.0.0.0", "host.docker.internal", True),
        ("0.0.0.0", "mac", True),
        ("0.0.0.0", "evil.example", False),
        ("studio.example", "studio.example:80", True),
    ],
)
def test_names_that_no_name_server_of_the_internet_can_make_up_are_answered(bound, host, answered):
    assert (refused(Guard(None, bound), headers(host)) is None) == answered


def test_two_hosts_are_refused():
    assert refused(Guard(None, "127.0.0.1"), [*headers(), *headers("evil.example")]).status == 400
