"""Train the small model: ``python -m tests.tiny.training.train``. Resumes where its work folder left off.

Each batch depends only on the seed and the step's number, so a stopped run resumes with the same batches.
"""

import argparse
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gptoss_mlx.harmony import Tokenizer, render_messages
from tests.tiny.training import network
from tests.tiny.training.conversations import Author
from tests.tiny.training.examples import Example, encode
from tests.tiny.training.vocabulary import train_tokens, trained_tokenizer_json

ORDINARY_TOKENS = 1003
TINY_CONFIG: dict[str, Any] = {
    "architectures": ["GptOssForCausalLM"],
    "model_type": "gpt_oss",
    "num_hidden_layers": 4,
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_local_experts": 8,
    "num_experts_per_tok": 4,
    "experts_per_token": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 1,
    "head_dim": 64,
    "vocab_size": ORDINARY_TOKENS + 21,
    "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "attention_bias": True,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "swiglu_limit": 7.0,
    "rms_norm_eps": 1e-5,
    "rope_theta": 150000.0,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "original_max_position_embeddings": 4096,
        "truncate": False,
    },
    "initial_context_length": 4096,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "quantization_config": {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
    },
}
EACH = 16
"""Conversations in a group. They share one system and developer message."""
POOL = 24
"""Settings drawn at a time."""
CHUNKS = 4
"""Groups of each setting, by length."""
GROUPS = 4
TOKENS = 8000
"""A batch has at most so many groups, and so many tokens unless it is one group."""
FURTHER_STEPS = (360, 240)
LONGEST = 288
"""Tokens of a conversation."""


@dataclass
class Batch:
    prefix: Tensor  # [G,P]
    prefix_length: Tensor  # [G]
    ids: Tensor  # [G,C,N]
    wanted: Tensor  # [G,C,N] bool: the next token is the model's own
    targets: Tensor  # [M]


def pad(rows: list[list[Any]], fill: Any, multiple: int) -> Tensor:
    length = -(-max(map(len, rows)) // multiple) * multiple
    return torch.tensor([row + [fill] * (length - len(row)) for row in rows])


def collate(groups: list[tuple[list[int], list[Example]]]) -> Batch:
    shape = len(groups), len(groups[0][1])
    examples = [example for _, members in groups for example in members]
    ids = pad([ids for ids, _ in examples], 0, 8)
    learn = pad([learn for _, learn in examples], False, 8)
    wanted = torch.zeros_like(learn)
    wanted[:, :-1] = learn[:, 1:]
    return Batch(
        pad([prefix for prefix, _ in groups], 0, 8),
        torch.tensor([len(prefix) for prefix, _ in groups]),
        ids.unflatten(0, shape),
        wanted.unflatten(0, shape),
        ids[:, 1:][wanted[:, :-1]],
    )


def pool(tokenizer: Tokenizer, seed: int, number: int) -> list[Batch]:
    """Return the batches of pool ``number`` in random order. Conversations of a batch have similar lengths."""
    rng = Random(f"{seed}/{number}")
    author = Author(rng)
    groups = []
    for _ in range(POOL):
        setting = author.setting()
        prefix = render_messages(setting.head(), tokenizer)
        examples: list[Example] = []
        while len(examples) < EACH * CHUNKS:
            example = encode(author.conversation(setting), tokenizer, calls_as_emitted=rng.random() < 0.8)
            if len(example[0]) <= LONGEST:
                examples.append(example)
        examples.sort(key=lambda example: len(example[0]))
        groups += [(prefix, examples[at : at + EACH]) for at in range(0, len(examples), EACH)]
    groups.sort(key=lambda group: len(group[1][-1][0]))
    batches = []
    batch = groups[:1]
    for group in groups[1:]:
        if len(batch) == GROUPS or (len(batch) + 1) * EACH * len(group[1][-1][0]) > TOKENS:
            batches.append(collate(batch))
            batch = []
        batch.append(group)
    batches.append(collate(batch))
    rng.shuffle(batches)
    return batches


def batches_from(tokenizer: Tokenizer, seed: int, number: int, index: int) -> Iterator[tuple[int, int, Batch]]:
    """Yield batches, each with the position to resume at after it: (pool, index in it, batch)."""
    while True:
        batches = pool(tokenizer, seed, number)
        while index < len(batches):
            index += 1
            yield number, index, batches[index - 1]
        number = number + 1
        index = 0


def held_out_sums(tokenizer: Tokenizer, count: int) -> list[Batch]:
    """Return sums and differences whose numbers and phrasing are never trained on, four settings in a batch."""
    ordinary = Author(Random("settings"))
    held_out = Author(Random("held out"), held_out=True, hard=False)
    batches = []
    for at in range(count // (4 * EACH)):
        groups = []
        for effort in ("low", "high", "low", "high"):
            setting = ordinary.setting(effort, calculate=bool(at % 2))
            sums = [held_out.sum_turn(setting, held_out.sum_question(four=0.0))[0] for _ in range(EACH)]
            members = [encode(messages, tokenizer) for messages in sums]
            groups.append((render_messages(setting.head(), tokenizer), members))
        batches.append(collate(groups))
    return batches


def vocabulary_texts(seed: int) -> Iterator[str]:
    """Yield texts to learn the vocabulary from: what the model reads and writes, without markers."""
    author = Author(Random(f"{seed}/vocabulary"))
    heads = Tokenizer.bundled()  # only to render contents as text
    for _ in range(20000):
        setting = author.setting()
        for message in setting.head() + author.conversation(setting):
            yield from re.split(r"<\|\w+\|>", heads.decode(render_messages([message], heads), markers=True))


def whole(logits: Tensor, batch: Batch) -> Tensor:
    """Return [G*C] bool: whether greedy decoding would give the whole reply."""
    right = torch.ones(batch.wanted.shape, dtype=torch.bool)
    right[batch.wanted] = logits.argmax(-1) == batch.targets
    return right.all(-1).flatten()


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al., 2024): five Newton-Schulz steps orthogonalize the momentum in the last two axes."""

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.05):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                mean.lerp_(p.grad, 1 - group["momentum"])
                x = p.grad.lerp(mean, group["momentum"])
                tall = x.shape[-2] > x.shape[-1]
                x = x.mT if tall else x
                x = (x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)).bfloat16()
                for _ in range(5):
                    a = x @ x.mT
                    x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
                x = (x.mT if tall else x).float()
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(x, alpha=-group["lr"] * max(1.0, p.shape[-2] / p.shape[-1]) ** 0.5)


def rate(step: int, steps: int) -> float:
    """Return the learning rate's factor: warm-up over 40 steps, decay over the last 65%, then two decays from 0.2."""
    for more in FURTHER_STEPS:
        if steps <= step < steps + more:
            return 0.2 * (steps + more - step) / more
        step -= more if step >= steps else 0
    return min((step + 1) / 40, 1.0, max((steps - step) / (0.65 * steps), 0.0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/tiny"), help="state and log")
    parser.add_argument("--steps", type=int, default=2600)
    parser.add_argument("--stop", type=int, default=10**9, help="stop before this step, to resume later")
    parser.add_argument("--seed", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--muon-rate", type=float, default=0.02)
    parser.add_argument("--adam-rate", type=float, default=3e-3)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    network.FUSED_SOFTMAX = torch.compile(network.sink_softmax, dynamic=True)
    network.FUSED_SWIGLU = torch.compile(network.weighted_swiglu, dynamic=True)

    tokenizer_file = args.work / "tokenizer.json"
    if not tokenizer_file.exists():
        tokens = train_tokens(vocabulary_texts(args.seed), ORDINARY_TOKENS)
        tokenizer_file.write_text(json.dumps(trained_tokenizer_json(tokens), ensure_ascii=False, indent=1))
    tokenizer = Tokenizer.from_file(tokenizer_file)
    assert tokenizer.vocab_size == TINY_CONFIG["vocab_size"], tokenizer.vocab_size

    net = network.Network(TINY_CONFIG)
    matrices = [p for n, p in net.named_parameters() if n.endswith(("proj.weight", "gate_up_proj", "down_proj"))]
    others = [p for p in net.parameters() if not any(p is m for m in matrices)]
    muon = Muon(matrices, args.muon_rate)
    adam = torch.optim.AdamW(others, args.adam_rate, betas=(0.9, 0.98), weight_decay=0.0)
    step = 0
    at = (0, 0)
    seconds = 0.0
    state_file = args.work / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        net.load_state_dict(state["net"])
        muon.load_state_dict(state["muon"])
        adam.load_state_dict(state["adam"])
        step = state["step"]
        at = tuple(state["at"])
        seconds = state["seconds"]
    held_out = held_out_sums(tokenizer, 256)

    def save() -> None:
        state = {"net": net.state_dict(), "muon": muon.state_dict(), "adam": adam.state_dict()}
        torch.save(state | {"step": step, "at": list(at), "seconds": seconds}, args.work / "state.new")
        os.replace(args.work / "state.new", state_file)

    def log(**entry: Any) -> None:
        line = json.dumps(entry)
        print(line, flush=True)
        with (args.work / "log.jsonl").open("a") as file:
            file.write(line + "\n")

    options = {name: str(value) for name, value in vars(args).items() if name != "work"}  # it is published
    log(event="start", step=step, torch=torch.__version__, **options)
    sums = {"loss": 0.0, "whole": 0.0, "replies": 0, "tokens": 0, "uneven": 0.0}
    began = time.perf_counter()
    for *position, batch in batches_from(tokenizer, args.seed, *at):
        if step >= min(args.steps + sum(FURTHER_STEPS), args.stop):
            break
        scale = rate(step, args.steps)
        for optimizer, base in ((muon, args.muon_rate), (adam, args.adam_rate)):
            for group in optimizer.param_groups:
                group["lr"] = base * scale
        logits, uneven = net(batch.prefix, batch.prefix_length, batch.ids, batch.wanted)
        loss = F.cross_entropy(logits, batch.targets)
        (loss + 0.01 * uneven).backward()
        nn.utils.clip_grad_norm_(others, 1.0)
        for optimizer in (muon, adam):
            optimizer.step()
            optimizer.zero_grad()
        step = step + 1
        at = (position[0], position[1])
        good = whole(logits.detach(), batch)
        sums["loss"] += loss.item()
        sums["uneven"] += uneven.item()
        sums["whole"] += good.sum().item()
        sums["replies"] += len(good)
        sums["tokens"] += len(batch.targets)
        if step % 20 == 0:
            now = time.perf_counter()
            seconds = seconds + now - began
            began = now
            log(
                step=step,
                seconds=round(seconds),
                loss=round(sums["loss"] / 20, 4),
                whole=round(sums["whole"] / sums["replies"], 4),
                uneven=round(sums["uneven"] / 20, 3),
                replies=sums["replies"],
                rate=round(scale, 3),
            )
            sums = dict.fromkeys(sums, 0)
        if step % 100 == 0:
            with torch.no_grad():
                found = [whole(net(b.prefix, b.prefix_length, b.ids, b.wanted)[0], b) for b in held_out]
            both = torch.stack(found).unflatten(1, (4, EACH)).float()
            log(step=step, held_out_low=both[:, ::2].mean().item(), held_out_high=both[:, 1::2].mean().item())
            save()
    save()


if __name__ == "__main__":
    main()
