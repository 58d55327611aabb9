"""Answer lines with a real decoder: each good line once, alone or with others, and each bad line as an error."""

import json
from contextlib import closing

import pytest

from gptoss_mlx.batch.answers import Answers, Errors
from gptoss_mlx.batch.run import BatchOptions, Run, Tally
from gptoss_mlx.batch.source import Source, open_source
from gptoss_mlx.conversation import Conversation
from gptoss_mlx.engine.prefix_cache import PrefixCache
from gptoss_mlx.errors import EngineError
from gptoss_mlx.events import Done, Text, Thought
from gptoss_mlx.memory.caches import cache_bytes
from gptoss_mlx.sampling import Sampling

GREEDY = Sampling(temperature=0)


@pytest.fixture
def answer(runtime, tmp_path):
    """Answer these lines. Return the answers and the errors by id, and the tally."""

    def answer(lines, *, rows=4, temperature=0, stop_after=None, name="out.jsonl", memory=1 << 30, **options):
        source_path = tmp_path / "in.jsonl"
        out = tmp_path / name
        source_path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
        chosen = BatchOptions(temperature=temperature, max_tokens=6, **options)
        steps = 0

        def stopped():
            nonlocal steps
            steps += 1
            return stop_after is not None and steps > stop_after

        with open_source(str(source_path)) as source:
            total = source.survey()
            fixed = {"date": "2025-06-28"}
            with closing(Answers(out, {}, fixed)) as answers, closing(Errors(out)) as errors:
                tally = Tally(total, len(answers.answered))
                run = Run(runtime, source, answers, errors, chosen, tally, max_rows=rows, memory=memory)
                run.go(lambda tally: None, stopped)
        return read(out), read(errors.path), tally

    return answer


def read(path):
    records = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    assert len({key(record) for record in records}) == len(records)
    return {key(record): record for record in records}


def key(record):
    return record.get("custom_id", record.get("id"))


def prompts(count):
    return [{"id": f"p{number}", "prompt": "x " * number + "?"} for number in range(count)]


def test_each_form_is_answered_in_its_own_shape_and_as_a_conversation_answers(runtime, answer):
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi there"}], "max_tokens": 9}
    lines = [
        {"id": 5, "prompt": "Hi there", "max_tokens": 9, "source": "a data set"},
        {"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": body},
        {"custom_id": "r", "method": "POST", "url": "/v1/responses", "body": {"input": "Hi there"}},
    ]
    answers, errors, tally = answer(lines, include_thinking=True)
    assert errors == {}
    talk = Conversation(runtime, date="2025-06-28", sampling=GREEDY, max_tokens=9)
    events = list(talk.send("Hi there"))
    said = "".join(event.text for event in events if isinstance(event, Text))
    thought = "".join(event.text for event in events if isinstance(event, Thought))
    done = next(event for event in events if isinstance(event, Done))
    plain = answers[5]
    chat = answers["c"]
    response = answers["r"]
    assert (plain["answer"], plain["thought"], plain["finish_reason"]) == (said, thought, done.reason)
    assert plain["usage"]["completion_tokens"] == done.usage.completion_tokens
    assert plain["usage"]["prompt_tokens"] == done.usage.prompt_tokens
    assert (chat["error"], chat["response"]["status_code"]) == (None, 200)
    assert chat["response"]["body"]["object"] == "chat.completion"
    assert (chat["response"]["body"]["choices"][0]["message"]["content"] or "") == said
    assert chat["response"]["body"]["model"] == runtime.folder.path.name
    assert response["response"]["body"]["object"] == "response"
    assert response["response"]["body"]["usage"]["output_tokens"] <= 6
    assert tally.other_models == {"gpt-4o": 1}
    assert tally.ignored == {"source": 1}


def test_lines_that_cannot_be_answered_are_errors_with_number_and_reason_and_the_rest_goes_on(runtime, answer):
    limit = runtime.config.max_position_embeddings
    lines = [
        {"id": "good", "prompt": "a"},
        "{not json",
        {"id": "empty", "prompt": " "},
        {"id": "hot", "prompt": "a", "temperature": -1},
        {"id": "long", "prompt": "\x01" * limit},
        {"id": "much", "prompt": "a", "max_tokens": 100_000},
        {"custom_id": "s", "method": "POST", "url": "/v1/responses", "body": {"input": "a", "stream": True}},
        {"id": "also good", "prompt": "b"},
    ]
    dtype = runtime.model.weights.dtype
    answers, errors, tally = answer(lines, memory=cache_bytes(runtime.config, 3000, dtype))
    assert set(answers) == {"good", "also good"}
    assert {(id, error["line"], error["error"]["code"]) for id, error in errors.items()} == {
        ("line-2", 2, "invalid_line"),
        ("empty", 3, "invalid_request"),
        ("hot", 4, "invalid_request"),
        ("long", 5, "context_length_exceeded"),
        ("much", 6, "out_of_memory"),
        ("s", 7, "invalid_request"),
    }
    assert f"{limit:,}" in errors["long"]["error"]["message"]
    assert errors["hot"]["error"]["param"] == "temperature"
    assert (tally.answered, tally.errors, tally.done) == (2, 6, 8)


@pytest.mark.parametrize("stop_after", [0, 3, 9])
def test_stopped_and_run_again_the_rest_is_answered_as_it_would_have_been(answer, stop_after):
    count = 10
    lines = [*prompts(count), "broken"]
    whole, errors, _ = answer(lines, name="whole.jsonl")
    first, _, _ = answer(lines, stop_after=stop_after)
    assert len(first) < count
    second, errors_again, tally = answer(lines)
    assert second == whole
    assert errors_again == errors
    assert (tally.before, tally.answered) == (len(first), count - len(first))
    third, _, tally = answer(lines)
    assert third == whole
    assert tally.tokens == 0


def test_a_seed_gives_each_line_its_own_draws_whatever_runs_beside_it(answer):
    """The prompts are equal, so only the draws differ."""
    lines = [{"id": f"p{number}", "prompt": "same"} for number in range(6)]
    together, _, _ = answer(lines, temperature=1, seed=3, name="a.jsonl")
    alone, _, _ = answer(lines, temperature=1, seed=3, rows=1, name="b.jsonl")
    other, _, _ = answer(lines, temperature=1, seed=4, name="c.jsonl")
    assert together == alone
    assert together != other
    assert len({record["answer"] for record in together.values()}) > 1


def test_the_input_is_read_only_as_far_as_rows_need_it(answer, tmp_path, monkeypatch):
    """Lines are read when there is room for a row, so memory does not grow with the file."""
    rows = 3
    under_way = []
    real = Source.lines
    out = tmp_path / "out.jsonl"

    def lines(self):
        for line in real(self):
            if out.exists():  # else the survey reads
                under_way.append(line.number - len(out.read_bytes().splitlines()))
            yield line

    monkeypatch.setattr(Source, "lines", lines)
    everything = prompts(20)
    answer(everything, rows=rows)
    assert len(under_way) == len(everything)
    assert max(under_way) <= 2 * rows


def test_what_lines_share_is_read_once(runtime, answer, monkeypatch):
    """Most tokens are of system and developer messages. Only the first row reads them, and usage shows it."""
    read = []
    real = type(runtime.model).__call__

    def call(self, tokens, cache):
        read.append(tokens.shape[1])
        return real(self, tokens, cache)

    monkeypatch.setattr(type(runtime.model), "__call__", call)
    runtime.prefixes = PrefixCache(1 << 30)
    messages = [{"role": "system", "content": "Be brief. " * 20}, {"role": "user", "content": "Well?"}]
    chat = {"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": messages}}
    body = {"instructions": "Be brief. " * 20, "input": "And?"}
    response = {"custom_id": "r", "method": "POST", "url": "/v1/responses", "body": body}
    answers, _, _ = answer([*prompts(5), chat, response])
    plain = [answers[f"p{number}"]["usage"] for number in range(5)]
    assert plain[0]["cached_tokens"] == 0
    assert len({usage["cached_tokens"] for usage in plain[1:]}) == 1
    assert plain[1]["cached_tokens"] > 50
    first, second = (answers[id]["response"]["body"]["usage"] for id in "cr")
    system = first["prompt_tokens_details"]["cached_tokens"]
    both = second["input_tokens_details"]["cached_tokens"]
    assert both > system + 200 > 200, "the first has the system message in common with all, the second its instructions"
    prompt = sum(usage["prompt_tokens"] for usage in (*plain, first)) + second["input_tokens"]
    assert sum(read) == prompt - sum(usage["cached_tokens"] for usage in plain) - system - both


def test_a_row_that_cannot_be_computed_is_an_error_of_its_line_alone(runtime, answer, monkeypatch):
    real = type(runtime.model).__call__

    def call(self, tokens, cache):
        if 7 in tokens.tolist()[0]:
            raise RuntimeError("no memory\nfor this")
        return real(self, tokens, cache)

    want, _, _ = answer(prompts(3), name="a.jsonl")
    monkeypatch.setattr(type(runtime.model), "__call__", call)
    bad = {"id": "bad", "prompt": runtime.tokenizer.decode([7]) + "!"}
    got, errors, _ = answer([*prompts(2), bad, prompts(3)[2]], name="b.jsonl")
    assert {id: record["answer"] for id, record in got.items()} == {id: one["answer"] for id, one in want.items()}
    assert errors["bad"]["error"]["code"] == "failed"
    assert "no memory for this" in errors["bad"]["error"]["message"]


def test_a_model_that_cannot_be_run_ends_the_run_and_keeps_what_is_answered(runtime, answer, monkeypatch, tmp_path):
    answer(prompts(9), stop_after=10, rows=2, name="a.jsonl")
    before = read(tmp_path / "a.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr(type(runtime.model), "__call__", lambda *_: 1 / 0)
        with pytest.raises(EngineError, match="division by zero"):
            answer(prompts(9), rows=2, name="a.jsonl")
    assert read(tmp_path / "a.jsonl") == before
    assert set(answer(prompts(9), rows=2, name="a.jsonl")[0]) == {line["id"] for line in prompts(9)}


def test_a_row_that_is_over_by_a_stop_string_makes_room(answer):
    first, _, _ = answer([{"id": 1, "prompt": "a", "max_tokens": 12}], name="a.jsonl")
    text = first[1]["answer"]
    assert len(text) > 3
    stopped, _, _ = answer([{"id": 1, "prompt": "a", "max_tokens": 12, "stop": text[2]}, *prompts(3)], name="b.jsonl")
    assert stopped[1]["answer"] == text[: text.index(text[2])]
    assert stopped[1]["finish_reason"] == "stop"
    assert len(stopped) == 4
