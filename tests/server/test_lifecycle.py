"""A server that is busy, drained, stopped or left, as a real process."""

import contextlib
import json
import signal
import threading
import time

import httpx2
import openai
import pytest

from tests.support.checkpoints import SMALL
from tests.support.models import endless_model
from tests.support.served import serving

SECRET = "xylophone 4711"
ASK = {"model": "m", "messages": [{"role": "user", "content": SECRET}], "temperature": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return endless_model(tmp_path_factory.mktemp("server"), SMALL, seed=31)


@pytest.fixture(scope="module")
def endless(folder):
    with serving("--model", folder, "--max-concurrency", "2", "--context", "700") as server:
        yield server


def client_of(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)


@contextlib.contextmanager
def streaming(server, **fields):
    """Have a stream that has begun to come."""
    body = ASK | {"stream": True} | fields
    with httpx2.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=60) as response:
        lines = response.iter_lines()
        while '"content":' not in next(lines):
            pass
        yield lines


def test_a_client_that_leaves_its_stream_ends_the_reply(endless):
    with streaming(endless):
        assert endless.health()["running"] == 1
    before = endless.wait_until_idle(2)["tokens"]
    time.sleep(0.2)
    assert endless.health()["tokens"] == before


def test_a_client_that_does_not_wait_for_a_whole_answer_ends_the_reply(endless):
    with pytest.raises(httpx2.ReadTimeout):
        httpx2.post(f"{endless.url}/v1/chat/completions", json=ASK, timeout=1.0)
    before = endless.wait_until_idle(2)["tokens"]
    time.sleep(0.2)
    assert endless.health()["tokens"] == before


def test_one_that_leaves_does_not_disturb_another(endless):
    body = ASK | {"max_tokens": 60}
    alone = client_of(endless).chat.completions.create(**body).choices[0].message.content
    found = []
    other = threading.Thread(
        target=lambda: found.append(client_of(endless).chat.completions.create(**body).choices[0].message.content)
    )
    with streaming(endless, messages=[{"role": "user", "content": "another"}]):
        other.start()
        time.sleep(0.1)
    other.join(60)
    assert found == [alone]


def test_a_reply_without_a_limit_ends_where_the_context_does(endless):
    done = client_of(endless).chat.completions.create(**ASK | {"max_tokens": 100_000})
    assert done.choices[0].finish_reason == "length"
    assert done.usage.total_tokens == 700


def test_a_signal_drains_and_prompts_and_outputs_are_in_no_log(folder):
    with serving("--model", folder) as server:
        with streaming(server, max_tokens=300) as lines:
            server.process.terminate()
            time.sleep(0.3)
            with pytest.raises(httpx2.ConnectError):
                server.health()
            rest = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
        assert rest[-1]["choices"][0]["finish_reason"] == "length"
        code, said = server.end()
    assert code == 128 + signal.SIGTERM
    assert [line.split()[0] for line in said.splitlines()] == ["loading", "serving"]
    assert SECRET not in said


def test_a_second_signal_stops(folder):
    with serving("--model", folder) as server, contextlib.suppress(httpx2.HTTPError), streaming(server) as lines:
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        for _ in lines:
            pass
        assert server.end()[0] == 128 + signal.SIGINT
        assert time.monotonic() - begun < 5


def test_several_models_are_swapped_and_unloaded_when_idle(folder):
    with serving("--model", "tiny", "--model", folder, "--idle-unload", "0.005", "--context", "4096") as server:
        assert {model["id"] for model in server.get("/v1/models").json()["data"]} == {"tiny", "model"}
        done = server.post("/v1/chat/completions", ASK | {"model": "tiny", "max_tokens": 2})
        assert done.json()["model"] == "tiny"
        with streaming(server, model="model", max_tokens=200):
            waiting = server.post("/v1/chat/completions", ASK | {"model": "tiny", "max_tokens": 2})
            assert waiting.json()["model"] == "tiny"
        for name in ("../../etc", str(folder), "..", "a\0b", "x" * 10_000):
            unknown = server.post("/v1/chat/completions", ASK | {"model": name})
            assert unknown.status_code == 404
            assert unknown.json()["error"]["message"].endswith("there are tiny, model")
            assert unknown.json()["error"]["code"] == "model_not_found"
        end = time.monotonic() + 10
        while server.health()["model"] is not None:
            assert time.monotonic() < end
            time.sleep(0.05)
        again = server.post("/v1/chat/completions", ASK | {"model": "model", "max_tokens": 2})
        assert again.json()["model"] == "model"


def test_a_request_that_cannot_fit_is_refused_before_any_work_with_the_numbers(endless):
    before = endless.health()["tokens"]
    long = endless.post("/v1/chat/completions", ASK | {"messages": [{"role": "user", "content": "word " * 900}]})
    assert long.status_code == 400
    assert long.json()["error"]["code"] == "context_length_exceeded"
    assert "700" in long.json()["error"]["message"]
    assert endless.health()["tokens"] == before
