"""The bundled model, converted, gives the replies that transformers computes (``make goldens-tiny``)."""

import hashlib
import json
from pathlib import Path

import pytest

from convert import convert
from gptoss_mlx.harmony import Developer, Function, Message, System, render, tool_call, tool_result
from gptoss_mlx.runtime import load

CHECKPOINT = Path(__file__).parents[2] / "gptoss_mlx/tiny/checkpoint"
GOLDENS = json.loads((Path(__file__).parents[1] / "data/tiny_replies.json").read_text())


@pytest.fixture(scope="module", params=["q8", "bf16"])
def runtime(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / request.param
    convert(CHECKPOINT, folder, dense=request.param)
    return load(folder)


def test_the_goldens_belong_to_the_bundled_weights():
    assert hashlib.sha256((CHECKPOINT / "model.safetensors").read_bytes()).hexdigest() == GOLDENS["weights"]


def test_the_bundled_checkpoint_stays_small():
    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) < 6_000_000


@pytest.mark.parametrize("case", GOLDENS["cases"], ids=lambda case: f"{case['reasoning']}: {case['messages'][-1][1]}")
def test_greedy_replies_are_the_reference_s(case, runtime):
    prompt = render(conversation(case), runtime.tokenizer)
    assert prompt == case["prompt"]
    assert list(runtime.generate(prompt, max_tokens=200, temperature=0.0)) == case["reply"]


def conversation(case: dict) -> list[Message]:
    messages = [Message("system", System(case["reasoning"], case["date"]))]
    if case["tool"] or case["instructions"]:
        functions = (Function(**GOLDENS["function"]),) if case["tool"] else ()
        messages.append(Message("developer", Developer(case["instructions"], functions)))
    for role, text in case["messages"]:
        match role:
            case "user":
                messages.append(Message("user", text))
            case "final":
                messages.append(Message("assistant", text, channel="final"))
            case "call":
                messages.append(tool_call("functions.calculate", text))
            case "tool":
                messages.append(tool_result(messages[-1], text))
    return messages
