"""mlx-lm's own loops and programs give with our model class what we give: ``make mlx-lm-test``.

They run in an environment that has mlx-lm and lm-eval.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import gptoss_mlx
from convert import convert
from gptoss_mlx.harmony import Developer, Message, System, render
from gptoss_mlx.mlx_lm_adapter import write_folder
from gptoss_mlx.model.rope import inverse_frequencies
from tests.support.measure import relative_l2

pytest.importorskip("mlx_lm", reason="make mlx-lm-test has it")
pytestmark = pytest.mark.slow

SUMS = Path(__file__).parent.parent / "lm_eval"
QUESTIONS = ("What is 347 + 58?", "What is 9 - 4?", "Please compute 202 minus 172.", "What is 5 * 6?", "Hello!")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlx-lm") / "tiny"
    write_folder("tiny", folder)
    return folder


@pytest.fixture(scope="module")
def loaded(folder):
    from mlx_lm import load

    return load(str(folder), trust_remote_code=True)


@pytest.fixture(scope="module")
def prompts(loaded):
    tokenizer = loaded[1]
    return [
        tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True)
        for question in QUESTIONS
    ]


@pytest.fixture(scope="module")
def sums(loaded):
    """Ids of sums, [8, 96]."""
    texts = [json.loads(line) for line in (SUMS / "sums.jsonl").read_text().splitlines()]
    ids = [id for one in texts for id in loaded[1].encode(f"{one['question']} {one['begun']} {one['answer']}. ")]
    return mx.array(ids[: 8 * 96]).reshape(8, 96)


def perplexity(runtime, data):
    surprise = [runtime.trace(row, what=["surprise"]).surprise[1:] for row in data.tolist()]
    return float(np.exp(np.mean(surprise)))


def written_by_us(model, prompt, most=200):
    """Return what we write greedily, without the id that ends it, as mlx-lm returns it."""
    ids = list(model.runtime.generate(prompt, max_tokens=most, temperature=0))
    return ids[:-1] if ids[-1] in model.runtime.stop_ids else ids


def test_the_chat_template_writes_what_our_renderer_writes(loaded):
    model, tokenizer = loaded
    said = [("system", "Be brief."), ("user", "Hi é"), ("assistant", "Hello."), ("user", "2 + 3?")]
    messages = [{"role": role, "content": text} for role, text in said]
    ours = [Message("system", System("high")), Message("developer", Developer("Be brief.")), Message("user", "Hi é")]
    ours += [Message("assistant", "Hello.", channel="final"), Message("user", "2 + 3?")]
    template = {"add_generation_prompt": True, "reasoning_effort": "high"}
    assert tokenizer.apply_chat_template(messages, **template) == render(ours, model.runtime.tokenizer)


def test_streamed_ids_are_ours(loaded, prompts):
    from mlx_lm import stream_generate

    model, tokenizer = loaded
    for prompt in prompts:
        streamed = [one.token for one in stream_generate(model, tokenizer, prompt, max_tokens=200)]
        assert streamed[:-1] == written_by_us(model, prompt)
        assert streamed[-1] in tokenizer.eos_token_ids


@pytest.mark.parametrize("step", [2048, 16])
def test_ids_of_a_batch_are_ours_whatever_is_padded(loaded, prompts, step):
    from mlx_lm import batch_generate

    model, tokenizer = loaded
    batch = [prompts[0][:40], *prompts[1:], prompts[0]]
    options = {"max_tokens": [5, 200, 200, 7, 200, 200], "prefill_batch_size": 3, "completion_batch_size": 4}
    found = batch_generate(model, tokenizer, batch, return_token_ids=True, prefill_step_size=step, **options)
    for prompt, most, ids in zip(batch, options["max_tokens"], found.token_ids, strict=True):
        assert ids == written_by_us(model, prompt, most)


def test_a_copied_cache_goes_on_apart_from_its_origin(loaded, prompts):
    import copy

    from mlx_lm.models.cache import make_prompt_cache

    model = loaded[0]
    ids = prompts[0]
    cache = make_prompt_cache(model)
    model(mx.array([ids[:50]]), cache)
    other = copy.deepcopy(cache)
    model(mx.array([prompts[1][:9]]), cache)
    rest = np.array(model(mx.array([ids[50:]]), other))[0]
    whole = np.array(model.runtime.logits([ids]))[0, 50:]
    assert np.abs(rest - whole).max() <= 1e-3


def test_perplexity_by_mlx_lms_loop_is_ours(loaded, sums):
    from mlx_lm.perplexity import eval_ppl

    model = loaded[0]
    theirs, _ = eval_ppl(model, sums, batch_size=4)
    assert theirs == pytest.approx(perplexity(model.runtime, sums), rel=1e-5)


def test_mlx_lms_own_class_agrees_once_its_yarn_does_not_round(sums, tmp_path):
    """It rounds the bounds of the interpolated dimensions to whole numbers, as gpt-oss does not. On the same weights in
    float32 its logits are ours at the first position alone; with our frequencies they are ours at all of them."""
    from mlx.utils import tree_map
    from mlx_lm.perplexity import eval_ppl
    from mlx_lm.utils import load_model

    checkpoint = Path(gptoss_mlx.__file__).parent / "tiny" / "checkpoint"
    convert(checkpoint, tmp_path / "model", dense="bf16")
    runtime = gptoss_mlx.load(tmp_path / "model", dtype="float32")
    own, _ = load_model(checkpoint)
    own.update(tree_map(lambda one: one.astype(mx.float32) if one.dtype == mx.bfloat16 else one, own.parameters()))
    logits = np.array(runtime.logits(sums))
    rounded = np.array(own(sums))
    assert relative_l2(rounded[:, 0], logits[:, 0]) <= 1e-5
    assert 1e-3 < relative_l2(rounded, logits) < 2e-2
    apart = eval_ppl(own, sums, batch_size=4)[0] / perplexity(runtime, sums) - 1
    for layer in own.layers:
        layer.self_attn.rope._freqs = 1 / mx.array(inverse_frequencies(runtime.config))
    assert relative_l2(np.array(own(sums)), logits) <= 1e-5
    assert eval_ppl(own, sums, batch_size=4)[0] == pytest.approx(perplexity(runtime, sums), rel=1e-5)
    print(f"mlx-lm's class: logits {relative_l2(rounded, logits):.1e} apart, perplexity {apart:+.2%}")


def run(program, *arguments, cwd, **environment):
    """Run a program that mlx-lm installs."""
    command = [str(Path(sys.executable).parent / program), *map(str, arguments), "--trust-remote-code"]
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(cwd / "hf")}
    done = subprocess.run(command, cwd=cwd, env=os.environ | offline | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_program_for_perplexity_runs_our_class(folder, tmp_path):
    lines = (SUMS / "sums.jsonl").read_text().splitlines()
    (tmp_path / "data").mkdir()
    texts = [json.dumps({"text": json.loads(line)["question"]}) for line in lines]
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(texts))
    options = ("--data-path", tmp_path / "data", "--num-samples", 4, "--sequence-length", 64)
    assert "Perplexity: " in run("mlx_lm.perplexity", "--model", folder, *options, cwd=tmp_path)


@pytest.mark.parametrize(("task", "chat"), [("gptoss_sums", ()), ("gptoss_sums_choice", ("--no-apply-chat-template",))])
def test_the_program_for_evaluation_scores_our_class(folder, tmp_path, task, chat):
    pytest.importorskip("lm_eval")
    for file in (f"{task}.yaml", "sums.jsonl"):
        (tmp_path / file).symlink_to(SUMS / file)
    out = run("mlx_lm.evaluate", "--model", folder, "--tasks", f"{task}.yaml", *chat, cwd=tmp_path)
    found = json.loads(out[out.rindex("Results:") + 8 :])
    if task == "gptoss_sums":
        assert found["exact_match,last-number"] >= 0.95
    else:
        assert 0.1 < found["acc,none"] < 0.5  # without a thought the small model guesses among four


def test_the_server_answers_with_our_class(folder, tmp_path, loaded, prompts):
    program = str(Path(sys.executable).parent / "mlx_lm.server")
    port = 18765 + os.getpid() % 1000
    command = [program, "--model", str(folder), "--trust-remote-code", "--port", str(port)]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    try:
        body = {"messages": [{"role": "user", "content": QUESTIONS[0]}], "max_tokens": 200, "temperature": 0}
        asked = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/chat/completions",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(asked, timeout=60) as response:
                    answer = json.load(response)["choices"][0]["message"]
                break
            except OSError:
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()[-2000:]
                assert server.poll() is None, (tmp_path / "log").read_text()[-2000:]
                time.sleep(0.3)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(20)
    model, tokenizer = loaded
    assert answer["content"] == tokenizer.decode(written_by_us(model, prompts[0]))
