"""``make lm-eval``: lm-eval asks the server held-out sums, and must find what we find on the same sums.

Over chat it reads the answers, and we read those of a ``Conversation``. Over completions it compares likelihoods, and
we compute those from ``Runtime.score``. Usage: python -m tests.lm_eval LM_EVAL_PROGRAM
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import gptoss_mlx
from gptoss_mlx.conversation import Conversation
from gptoss_mlx.events import Text
from gptoss_mlx.mlx_lm_adapter import write_folder
from gptoss_mlx.runtime import Runtime
from gptoss_mlx.sampling import Sampling
from tests.support.served import Process
from tests.tiny.training.arithmetic import answered_number

HERE = Path(__file__).parent
SUMS = [json.loads(line) for line in (HERE / "sums.jsonl").read_text().splitlines()]
APART = 1e-3
"""The most that two sums of a few logarithms may be apart. The server computes rows of several lengths together."""


def evaluated(program: str, out: Path, task: str, model: str, arguments: str, *options: str) -> list[dict]:
    """Run a task and return its samples, by question."""
    command = [program, "run", "--model", model, "--model_args", arguments, "--tasks", task, *options]
    command += ["--include_path", ".", "--output_path", str(out / task), "--log_samples"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(out / "hf")}
    done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"lm-eval: {task} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    (file,) = (out / task).glob(f"**/samples_{task}_*.jsonl")
    samples = [json.loads(line) for line in file.read_text().splitlines()]
    return sorted(samples, key=lambda sample: sample["doc_id"])


def answer(runtime: Runtime, question: str) -> str:
    conversation = Conversation(runtime, sampling=Sampling(temperature=0))
    return "".join(event.text for event in conversation.send(question) if isinstance(event, Text))


def likelihoods(runtime: Runtime, prompt: str, choices: list[str]) -> list[float]:
    """Return the log-likelihood of each choice after a prompt in which markers are written out."""
    ids = ids_of(runtime, prompt)
    found = []
    for choice in choices:
        own = runtime.tokenizer.encode(choice)
        found.append(sum(score.logprob for score in runtime.score([*ids, *own], 0)[len(ids) - 1 :]))
    return found


def ids_of(runtime: Runtime, prompt: str) -> list[int]:
    ids: list[int] = []
    for number, piece in enumerate(prompt.split("<|")):
        name, marked, text = piece.partition("|>") if number else ("", "", piece)
        ids += [runtime.tokenizer.special[f"<|{name}|>"]] if marked else []
        ids += runtime.tokenizer.encode(text)
    return ids


def main(program: str) -> int:
    runtime = gptoss_mlx.load("tiny")
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        write_folder("tiny", out / "tokenizer")
        server = Process("--model", "tiny").wait_until_ready()
        try:
            where = f"model=tiny,base_url={server.url}/v1"
            chat = evaluated(
                *(program, out, "gptoss_sums", "local-chat-completions"),
                f"{where}/chat/completions,num_concurrent=4",
                "--apply_chat_template",
            )
            choice = evaluated(
                *(program, out, "gptoss_sums_choice", "local-completions"),
                f"{where}/completions,tokenizer={out / 'tokenizer'},tokenizer_backend=huggingface",
            )
        finally:
            server.process.terminate()
            server.process.wait(30)
    own = [answered_number(answer(runtime, one["question"])) == int(one["answer"]) for one in SUMS]
    theirs = [sample["exact_match"] == 1 for sample in chat]
    print(f"answers:     lm-eval finds {sum(theirs)} of {len(theirs)} right, we find {sum(own)}")
    apart, right = 0.0, []
    for one, sample in zip(SUMS, choice, strict=True):
        ours = likelihoods(runtime, sample["arguments"]["gen_args_0"]["arg_0"], one["choices"])
        read = [float(response[0][0]) for response in sample["resps"]]
        apart = max(apart, *(abs(a - b) for a, b in zip(ours, read, strict=True)))
        right.append(max(range(4), key=ours.__getitem__) == one["label"])
    counted = sum(sample["acc"] == 1 for sample in choice)
    print(
        f"likelihoods: lm-eval finds {counted} of {len(choice)} right, we find {sum(right)}; {apart:.1e} apart at most"
    )
    same = own == theirs and len(own) == len(SUMS) and apart <= APART and counted == sum(right)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main(str(Path(sys.argv[1]).absolute())))
