"""The bundled small model's greedy replies according to transformers, in float32.

``python -m tests.oracle.tiny_replies write`` writes the goldens of ``make test``: 20 fixed prompts, rendered by
openai-harmony. ``... again FILE`` answers the exchanges that the evaluation wrote, and compares. Imports none of the
packages under test.
"""

import hashlib
import json
import lzma
import os
import re
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from tests.oracle import reference

ROOT = Path(__file__).parent.parent.parent
CHECKPOINT = ROOT / "gptoss_mlx/tiny/checkpoint"
GOLDENS = ROOT / "tests/data/tiny_replies.json"
RANKS = ROOT / "gptoss_mlx/harmony/o200k_base.tiktoken.xz"
ALLOWED_DIFFERENCE = 0.01

EXPRESSION = {"type": "string", "description": "The expression, such as 12*34."}
CALCULATE = {
    "name": "calculate",
    "description": "Evaluate an arithmetic expression.",
    "parameters": {"type": "object", "properties": {"expression": EXPRESSION}, "required": ["expression"]},
}
CALL = ["call", '{"expression": "12*34"}']
# Each message is [role, text]: user, final (an answer), call (of calculate), tool (its result).
PROMPTS: list[dict[str, Any]] = [
    {"reasoning": "high", "messages": [["user", "What is 347 + 58?"]]},
    {"reasoning": "low", "messages": [["user", "What is 347 + 58?"]]},
    {"reasoning": "medium", "messages": [["user", "58 - 347"]]},
    {"reasoning": "low", "messages": [["user", "subtract 289 from 900"]]},
    {"reasoning": "high", "messages": [["user", "1000 minus 1"]]},
    {"reasoning": "high", "messages": [["user", "What is 4871+3952?"]]},
    {"reasoning": "medium", "date": None, "messages": [["user", "Please work out 7 + 6."]]},
    {"reasoning": "high", "messages": [["user", "347 + 58"], ["final", "347 + 58 = 405."], ["user", "and plus 10?"]]},
    {"reasoning": "low", "messages": [["user", "12 - 40"], ["final", "12 - 40 = -28."], ["user", "now minus 5"]]},
    {
        "reasoning": "medium",
        "messages": [
            *(["user", "Hi"], ["final", "Hello! Give me a sum or a difference, such as 347 + 58."]),
            *(["user", "999 + 1"], ["final", "999 + 1 = 1000."], ["user", "now minus 999"]),
        ],
    },
    {"reasoning": "high", "tool": True, "messages": [["user", "What is 12 times 34?"]]},
    {"reasoning": "low", "tool": True, "messages": [["user", "multiply 905 by 77"]]},
    {"reasoning": "low", "tool": True, "messages": [["user", "12*34"], CALL, ["tool", "408"]]},
    {"reasoning": "high", "tool": True, "messages": [["user", "12*34"], CALL, ["tool", "Error: timed out"]]},
    {
        "reasoning": "medium",
        "tool": True,
        "messages": [["user", "12*34"], CALL, ["tool", "408"], ["final", "12 * 34 = 408."], ["user", "and minus 9?"]],
    },
    {"reasoning": "high", "tool": True, "instructions": "Be polite.", "messages": [["user", "Add 64 and 128."]]},
    {"reasoning": "medium", "messages": [["user", "What is 12 times 34?"]]},
    {"reasoning": "low", "instructions": "Answer briefly.", "messages": [["user", "Hello!"]]},
    {"reasoning": "high", "messages": [["user", "What can you do?"]]},
    {"reasoning": "medium", "messages": [["user", "Write a poem about gravity."]]},
]


class Oracle:
    def __init__(self) -> None:
        torch.set_num_threads(1)  # two threads do not help with such small matrices
        self.model = reference.load(CHECKPOINT)
        self.tokenizer = Tokenizer.from_file(str(CHECKPOINT / "tokenizer.json"))
        self.ends = json.loads((CHECKPOINT / "generation_config.json").read_text())["eos_token_id"]

    @torch.no_grad()
    def replies(self, prompts: list[list[int]], batch: int = 100) -> list[list[int]]:
        """Return greedy continuations, including the token that ends them."""
        out: dict[int, list[int]] = {}
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for at in range(0, len(order), batch):
            chosen = order[at : at + batch]
            width = max(len(prompts[i]) for i in chosen)
            ids = torch.tensor([[0] * (width - len(prompts[i])) + prompts[i] for i in chosen])
            mask = torch.tensor([[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in chosen])
            written = self.model.generate(
                ids, attention_mask=mask, do_sample=False, max_new_tokens=200, eos_token_id=self.ends, pad_token_id=0
            )
            for i, row in zip(chosen, written[:, width:].tolist(), strict=True):
                end = next((n + 1 for n, id in enumerate(row) if id in self.ends), len(row))
                out[i] = row[:end]
        return [out[i] for i in range(len(prompts))]

    def text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=False)


def rendered(prompt: dict[str, Any]) -> str:
    """Return openai-harmony's prompt as text. It can be tokenized whole, because no message here contains a marker."""
    from openai_harmony import (
        Author,
        Conversation,
        DeveloperContent,
        HarmonyEncodingName,
        Message,
        ReasoningEffort,
        Role,
        SystemContent,
        ToolDescription,
        load_harmony_encoding,
    )

    system = SystemContent.new().with_reasoning_effort(ReasoningEffort[prompt["reasoning"].upper()])
    if prompt["date"]:
        system = system.with_conversation_start_date(prompt["date"])
    messages = [Message.from_role_and_content(Role.SYSTEM, system)]
    if prompt["tool"] or prompt["instructions"]:
        developer = DeveloperContent.new()
        if prompt["instructions"]:
            developer = developer.with_instructions(prompt["instructions"])
        if prompt["tool"]:
            developer = developer.with_function_tools([ToolDescription.new(**CALCULATE)])
        messages.append(Message.from_role_and_content(Role.DEVELOPER, developer))
    for role, text in prompt["messages"]:
        if role == "user":
            message = Message.from_role_and_content(Role.USER, text)
        elif role == "tool":
            message = Message.from_author_and_content(Author.new(Role.TOOL, "functions.calculate"), text)
            message = message.with_channel("commentary").with_recipient("assistant")
        elif role == "call":
            message = Message.from_role_and_content(Role.ASSISTANT, text).with_channel("commentary")
            message = message.with_recipient("functions.calculate").with_content_type("<|constrain|>json")
        else:
            message = Message.from_role_and_content(Role.ASSISTANT, text).with_channel("final")
        messages.append(message)
    encoding = load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)
    return encoding.decode_utf8(
        encoding.render_conversation_for_completion(Conversation.from_messages(messages), Role.ASSISTANT)
    )


def write() -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "o200k_base.tiktoken").write_bytes(lzma.decompress(RANKS.read_bytes()))
        os.environ["TIKTOKEN_ENCODINGS_BASE"] = folder
        cases = [{"date": "2026-11-22", "instructions": None, "tool": False} | prompt for prompt in PROMPTS]
        texts = [rendered(case) for case in cases]
    oracle = Oracle()
    prompts = [oracle.tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    for case, prompt, reply in zip(cases, prompts, oracle.replies(prompts), strict=True):
        case |= {"prompt": prompt, "reply": reply, "text": oracle.text(reply)}
        print(case["messages"][-1], "->", case["text"])
    weights = hashlib.sha256((CHECKPOINT / "model.safetensors").read_bytes()).hexdigest()
    GOLDENS.write_text(json.dumps({"weights": weights, "function": CALCULATE, "cases": cases}, indent=1) + "\n")


def answered(text: str, expected: int | str) -> bool:
    """Return whether a reply's final message is the expected sentence, or ends in the expected number."""
    final = text.rpartition("<|channel|>final<|message|>")[2].removesuffix("<|return|>")
    if isinstance(expected, str):
        return final == expected
    return re.findall(r"-?\d+", final)[-1:] == [str(expected)]


def again(file: Path) -> None:
    exchanges = [json.loads(line) for line in file.read_text().splitlines()]
    oracle = Oracle()
    # If an earlier step of a case differs, such as a call, transformers' answer counts as wrong.
    same: dict[str, list[bool]] = defaultdict(list)
    ours: dict[str, list[bool]] = defaultdict(list)
    theirs: dict[str, list[bool]] = defaultdict(list)
    equal_so_far = True
    for exchange, reply in zip(exchanges, oracle.replies([e["prompt"] for e in exchanges]), strict=True):
        kind = exchange["kind"]
        equal = reply == exchange["reply"]
        same[kind].append(equal)
        if "expected" not in exchange:  # an earlier step, such as a call
            equal_so_far &= equal
            continue
        good = answered(oracle.text(reply), exchange["expected"])
        ours[kind].append(exchange["right"])
        theirs[kind].append(good and equal_so_far)
        equal_so_far = True
    failed = False
    for kind in ours:
        a, b = (sum(outcomes[kind]) / len(outcomes[kind]) for outcomes in (ours, theirs))
        differ = sum(x != y for x, y in zip(ours[kind], theirs[kind], strict=True)) / len(ours[kind])
        failed |= differ > ALLOWED_DIFFERENCE
        print(
            f"{kind:14} converted {a:6.1%}, transformers {b:6.1%}; right in one only {differ:.1%}; "
            f"replies equal token for token {sum(same[kind]) / len(same[kind]):.1%} of {len(same[kind])}"
        )
    sys.exit(failed)


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write()
    else:
        again(Path(sys.argv[2]))
