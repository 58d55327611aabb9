"""What clients of a scripted server see of time: waiting, heartbeats, leaving, slow heads and slow bodies."""

import contextlib
import gc
import json
import socket
import time
import weakref
from concurrent.futures import Future

import httpx2
import pytest

from gptoss_mlx.errors import GrammarError
from gptoss_mlx.server import exchange, process, service
from tests.server.said import ANSWER, ENDLESS, RETURN

ASK = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
PATH = "/v1/chat/completions"


@contextlib.contextmanager
def streaming(there, path=PATH, **fields):
    """Have a stream whose response has begun."""
    body = ASK | {"stream": True} | fields
    with httpx2.stream("POST", there.url + path, json=body, timeout=30) as response:
        yield response


def test_a_reply_ends_within_one_token_of_its_client_s_leaving(scripted):
    """The client leaves after it has read a token. What is generated until the server notices is at most the step
    under way and the one that the order to end waits behind."""
    with scripted(ENDLESS, pause=0.1) as there:
        with streaming(there) as response:
            lines = response.iter_lines()
            while '"content":"' not in next(lines) or there.rows.steps < 6:
                pass
        steps = there.rows.steps
        time.sleep(0.5)
        assert there.rows.steps <= steps + 2
        there.wait_until_idle()


def test_a_row_whose_reply_has_ended_is_let_go_at_once(scripted):
    """It holds its cache. In a circle of references it would last until Python looks for such circles."""
    with scripted(ANSWER, ANSWER, ENDLESS, pause=0.001) as there:
        gc.disable()
        try:
            httpx2.post(there.url + PATH, json=ASK)
            httpx2.post(f"{there.url}/v1/responses", json={"input": "Hi"})
            with streaming(there) as response:
                next(response.iter_lines())
            there.wait_until_idle()
            rows = [weakref.ref(row) for row in there.rows.asked]
            there.rows.asked.clear()
            end = time.monotonic() + 2
            while any(row() is not None for row in rows) and time.monotonic() < end:
                time.sleep(0.01)
            assert [row() for row in rows] == [None] * 3
        finally:
            gc.enable()


def test_more_than_may_wait_are_told_to_come_again(scripted):
    with scripted(*[ENDLESS] * 16, ANSWER, pause=0.01) as there, contextlib.ExitStack() as stack:
        open_ones = [stack.enter_context(streaming(there)) for _ in range(16)]
        assert [response.status_code for response in open_ones] == [200] * 16
        refused = httpx2.post(there.url + PATH, json=ASK)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 0
        assert refused.json()["error"]["type"] == "rate_limit_error"
        open_ones[0].close()
        time.sleep(0.3)
        assert "It is 4." in httpx2.post(there.url + PATH, json=ASK).text


def events(response):
    return [json.loads(line.removeprefix("data: ")) for line in response.iter_lines() if line.startswith("data: {")]


def test_a_long_prompt_shows_its_progress_in_the_events_of_each_api(scripted, monkeypatch):
    monkeypatch.setattr(service, "HEARTBEAT", 0.05)
    with scripted([RETURN], [RETURN], [RETURN], pause=0.3) as there:
        with streaming(there) as response:
            waits = [event for event in events(response) if "prompt_progress" in event]
        assert waits
        assert waits[0]["choices"][0]["delta"] == {}
        assert waits[0]["prompt_progress"]["total"] == len(there.rows.asked[0].prompt)
        with streaming(there, "/v1/responses", input="Hi", messages=None) as response:
            kinds = [event["type"] for event in events(response)]
        assert kinds.count("response.in_progress") > 1
        with streaming(there, "/v1/messages", max_tokens=20) as response:
            kinds = [event["type"] for event in events(response)]
        assert kinds.count("ping") > 1


def test_a_request_that_waits_for_constraints_shows_that_it_is_alive(scripted, monkeypatch):
    """Others do not wait. What then fails ends the stream with an error."""
    monkeypatch.setattr(service, "HEARTBEAT", 0.05)
    form = {"response_format": {"type": "json_object"}}
    with scripted([RETURN], [*ANSWER[:3], "{}", RETURN]) as there:
        there.runtime.prepared = Future()
        with streaming(there, **form) as response:
            lines = response.iter_lines()
            while "prompt_progress" not in next(lines):
                pass
            assert httpx2.post(there.url + PATH, json=ASK).status_code == 200
            assert len(there.rows.asked) == 1
            there.runtime.prepared.set_result(None)
            assert any('"finish_reason":"stop"' in line for line in lines)
        there.runtime.prepared = Future()
        with streaming(there, **form) as response:
            lines = response.iter_lines()
            next(lines)
            there.runtime.prepared.set_exception(GrammarError("too much"))
            assert any("too much" in line for line in lines)
        there.wait_until_idle()


@pytest.fixture
def connect():
    """Make a function that opens a connection to a server."""
    with contextlib.ExitStack() as stack:

        def connect(there):
            host, _, port = there.url.removeprefix("http://").partition(":")
            return stack.enter_context(socket.create_connection((host, int(port)), timeout=10))

        yield connect


def test_a_head_that_comes_too_slowly_is_given_up(scripted, monkeypatch, connect):
    monkeypatch.setattr(process, "HEAD_SECONDS", 0.3)
    with scripted(ANSWER) as there:
        silent, slow = connect(there), connect(there)
        for letter in b"GET":
            slow.sendall(bytes([letter]))
            time.sleep(0.05)
        for connection in (silent, slow):
            assert connection.recv(100).startswith(b"HTTP/1.1 408")
            assert connection.recv(100) == b""
        quick = connect(there)
        request = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"
        for _ in range(2):  # the time begins again with each request on the connection
            quick.sendall(request)
            time.sleep(0.4)
            assert quick.recv(4096).startswith(b"HTTP/1.1 200")
        quick.sendall(b"GET")
        assert b"408" in quick.recv(100)


def test_a_body_that_comes_too_slowly_is_given_up(scripted, monkeypatch, connect):
    monkeypatch.setattr(exchange, "BODY_SECONDS", 0.3)
    with scripted(ANSWER) as there:
        connection = connect(there)
        connection.sendall(b"POST /v1/responses HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n{")
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_a_client_that_leaves_in_its_body_leaves_nothing_behind(scripted, connect):
    with scripted(ANSWER) as there:
        connection = connect(there)
        connection.sendall(b"POST /v1/responses HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\n{")
        time.sleep(0.1)
        connection.close()
        assert "It is 4." in httpx2.post(there.url + PATH, json=ASK).text
        there.wait_until_idle()
