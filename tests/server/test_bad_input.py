"""Whatever is sent, the answer is a typed 4xx, and the process answers the next request."""

import json
import random
import socket

import pytest

CHAT = "/v1/chat/completions"
USER = {"role": "user", "content": "What is 2 + 2?"}
BODIES = {CHAT: {"messages": [USER]}, "/v1/responses": {"input": "Hi"}, "/v1/messages": {"messages": [USER]}}
BODIES["/v1/messages"] |= {"max_tokens": 4}
DEEP = b"[" * 100_000


@pytest.fixture(autouse=True)
def lives(server):
    yield
    assert server.health()["status"] == "ok"


@pytest.mark.parametrize("path", [*BODIES, "/v1/completions", "/v1/messages/count_tokens"])
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"null", b"5", b'"text"', b"[]", b"\xff\xfe\x00", b'{"messages": NaN}', DEEP, b"1" * 5000, b"{}"],
    ids=lambda body: repr(body[:12]),
)
def test_a_body_that_is_no_request_is_refused(server, path, body):
    response = server.post(path, content=body)
    assert 400 <= response.status_code < 500
    assert response.json()["error"]["message"]


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": "NaN"},
        {"temperature": 1e400},
        {"max_tokens": -1, "max_output_tokens": -1},
        {"model": 5},
        {"model": ["a"]},
        {"stream": "yes"},
        {"tools": {"a": 1}},
        {"tools": [1]},
        {"messages": [1], "input": [1]},
        {"messages": [{"role": "user", "content": [{"type": "audio"}]}], "input": [{"type": "audio"}]},
        {"top_p": -1},
        {"top_k": "many"},
    ],
    ids=lambda fields: json.dumps(fields)[:40],
)
def test_a_field_of_the_wrong_kind_is_refused(server, path, fields):
    content = json.dumps(BODIES[path] | fields).encode().replace(b"Infinity", b"1e400")
    response = server.post(path, content=content)
    assert 400 <= response.status_code < 500, response.text
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_a_body_of_100_mb_is_refused(server):
    response = server.post(CHAT, content=b'{"messages": "' + b"x" * 100_000_000)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"


def test_unknown_paths_and_methods_are_refused(server):
    assert server.get("/v1/nothing").status_code == 404
    assert server.get("/v1/nothing").json()["error"]["code"] == "not_found"
    assert server.get(CHAT).status_code == 405
    assert server.post("/v1/models", {}).json()["error"]["code"] == "bad_method"
    assert server.get("/v1/models/%2e%2e/%2e%2e/etc/passwd").json()["id"] == "../../etc/passwd"  # another name of it


def raw(server, data, seconds=5.0):
    """Send bytes and return what comes back until the connection closes or nothing comes for a moment."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=seconds) as connection:
        connection.sendall(data)
        connection.settimeout(0.3)
        found = b""
        try:
            while piece := connection.recv(65536):
                found += piece
        except (TimeoutError, ConnectionResetError):
            pass
        return found


def test_bytes_that_are_no_http_do_no_harm(server):
    rng = random.Random(1)
    good = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n{}"
    chunked = b"POST /v1/responses HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    cases = [b"\0" * 100, b"GET / HTTP/9.9\r\n\r\n", b"GET " + b"/" * 70_000, chunked + b"zz\r\n", chunked + b"5\r\nab"]
    for _ in range(20):
        broken = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        cases.append(bytes(broken))
    for case in cases:
        answer = raw(server, case)
        assert not answer or answer.startswith(b"HTTP/1.1 4"), (case, answer)
