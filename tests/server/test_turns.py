"""A turn reads only what is new, whichever API it comes through and whatever else was asked in between."""

import signal
import time

import openai
import pytest

from tests.server.said import ANSWER, CHAT_TOOL, NEXT, PARAMETERS, SAID, THOUGHT, calling
from tests.support.harmony_streams import encode
from tests.support.served import serving

HEAD = "You are a careful assistant. " * 60


def chat(client, turns):
    messages = [{"role": "system", "content": HEAD}]
    for said, answer in turns:
        messages += [{"role": "user", "content": said}, *([{"role": "assistant", "content": answer}] if answer else [])]
    done = client.chat.completions.create(model="m", messages=messages, temperature=0, max_tokens=60)
    usage = done.usage
    return done.choices[0].message.content, usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens


def respond(client, turns):
    items = []
    for said, answer in turns:
        items += [{"role": "user", "content": said}, *([{"role": "assistant", "content": answer}] if answer else [])]
    done = client.responses.create(model="m", instructions=HEAD, input=items, temperature=0, max_output_tokens=60)
    return done.output_text, done.usage.input_tokens, done.usage.input_tokens_details.cached_tokens


def message(claude, turns):
    messages = []
    for said, answer in turns:
        messages += [{"role": "user", "content": said}, *([{"role": "assistant", "content": answer}] if answer else [])]
    done = claude.messages.create(
        model="m", system=HEAD, messages=messages, max_tokens=60, extra_body={"temperature": 0}
    )
    text = "".join(block.text for block in done.content)
    usage = done.usage
    return text, usage.input_tokens + usage.cache_read_input_tokens, usage.cache_read_input_tokens


@pytest.mark.parametrize("api", [chat, respond, message])
def test_a_turn_reads_the_last_answer_and_the_new_message(api, request):
    client = request.getfixturevalue("claude" if api is message else "client")
    other = request.getfixturevalue("client")
    turns = []
    before = None
    for said in ("What is 12 + 30?", "and plus 10?", "and plus 20?"):
        answer, length, cached = api(client, [*turns, (f"{said} {api.__name__}", None)])
        if before is not None:
            assert cached >= before - 4  # all of the prompt before but <|start|>assistant
        before = length
        turns.append((f"{said} {api.__name__}", answer or "-"))
        other.chat.completions.create(model="m", messages=[{"role": "user", "content": "Title?"}], max_tokens=2)
        _, agent, shared = chat(other, [(f"A second agent asks {len(turns)} {api.__name__}", None)])
        assert shared > 0.9 * agent - 30  # the head


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_is_started_again_reads_only_what_is_new(tmp_path, number):
    """Also after a kill, once nobody waits for the server and it has written what it read."""
    options = ("--model", "tiny", "--prefix-disk", "1GB")
    turns = [("What is 12 + 30?", None)]
    seen = []
    for _ in range(2):
        with serving(*options, GPTOSS_MAC_HOME=str(tmp_path)) as server:
            client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)
            seen.append(chat(client, turns))
            turns = [(turns[0][0], seen[-1][0]), ("and plus 10?", None)]
            end = time.monotonic() + 30
            while number == signal.SIGKILL and not any(
                int(path.name.split("-")[1]) >= seen[-1][1] - 4 for path in (tmp_path / "snapshots").glob("at-*")
            ):
                assert time.monotonic() < end, "nothing was written"
                time.sleep(0.05)
            server.process.send_signal(number)
            assert server.end()[0] == (143 if number == signal.SIGTERM else -number)
    assert seen[0][2] == 0
    assert seen[1][2] >= seen[0][1] - 4


CALLED = [*THOUGHT, *NEXT, *SAID, *NEXT, *calling(arguments='{ "city" : "Paris" }')]


def test_a_client_that_leaves_out_the_thought_of_a_call_has_the_model_read_it_all_the_same(scripted, openai_at):
    """The next prompt begins with the very ids of the first one and of its reply, although the client sent neither the
    thought nor the blanks in the arguments."""
    with scripted(CALLED, ANSWER, ANSWER) as there:
        client = openai_at(there)
        ask = [{"role": "user", "content": "Weather?"}]
        message = client.chat.completions.create(model="m", messages=ask, tools=[CHAT_TOOL]).choices[0].message
        (call,) = message.tool_calls
        function = {"name": "f", "arguments": '{"city":"Paris"}'}
        sent = {"role": "assistant", "content": message.content}
        sent["tool_calls"] = [{"id": call.id, "type": "function", "function": function}]
        result = {"role": "tool", "tool_call_id": call.id, "content": "wet"}
        client.chat.completions.create(model="m", messages=[*ask, sent, result], tools=[CHAT_TOOL])
        other = sent | {"content": "Something else."}
        client.chat.completions.create(model="m", messages=[*ask, other, result], tools=[CHAT_TOOL])
        first, second, third = (row.prompt for row in there.rows.asked)
        written = first + encode(CALLED, there.tokenizer.special, there.tokenizer.encode)
        assert second[: len(written)] == written
        assert "Something else." in there.tokenizer.decode(third, markers=True)


def test_messages_too_have_the_thought_that_anthropic_s_client_never_saw(scripted, anthropic_at):
    tool = {"name": "f", "description": "Weather.", "input_schema": PARAMETERS}
    with scripted(CALLED, ANSWER) as there:
        client = anthropic_at(there)
        ask = [{"role": "user", "content": "Weather?"}]
        said = client.messages.create(model="m", max_tokens=90, messages=ask, tools=[tool]).content
        assert [block.type for block in said] == ["text", "tool_use"]
        result = {"type": "tool_result", "tool_use_id": said[1].id, "content": "wet"}
        messages = [*ask, {"role": "assistant", "content": said}, {"role": "user", "content": [result]}]
        client.messages.create(model="m", max_tokens=90, messages=messages, tools=[tool])
        first, second = (row.prompt for row in there.rows.asked)
        written = first + encode(CALLED, there.tokenizer.special, there.tokenizer.encode)
        assert second[: len(written)] == written
