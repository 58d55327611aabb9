"""A turn reads only what is new, whichever API it comes through and whatever else was asked in between."""

import openai
import pytest

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


def test_a_server_that_is_started_again_reads_only_what_is_new(tmp_path):
    options = ("--model", "tiny", "--prefix-disk", "1GB")
    turns = [("What is 12 + 30?", None)]
    seen = []
    for _ in range(2):
        with serving(*options, GPTOSS_MAC_HOME=str(tmp_path)) as server:
            client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60)
            seen.append(chat(client, turns))
            turns = [(turns[0][0], seen[-1][0]), ("and plus 10?", None)]
            server.process.terminate()
            assert server.end()[0] == 143
    assert seen[0][2] == 0
    assert seen[1][2] >= seen[0][1] - 4
