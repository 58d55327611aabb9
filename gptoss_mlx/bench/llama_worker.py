"""llama.cpp as a program to be measured. Runs in an environment of its own, and imports only llama_cpp.

``gptoss_mlx/bench/peer.py`` describes the questions. The settings are llama.cpp's defaults: flash attention where the
backend has it, and weights repacked at load for this CPU's instructions. Generation reads random ids, as llama-bench
does. With option ``exact`` keys and values are
float32 instead of float16, and attention is not flash attention, which rounds to float16.
"""

import ctypes
import json
import os
import random
import resource
import sys
import time
from typing import Any

import llama_cpp as llama

ERROR_LEVEL = 4
"""ggml's GGML_LOG_LEVEL_ERROR, which llama_cpp does not name."""


@llama.llama_log_callback
def log_errors(level: int, text: bytes, data: object) -> None:
    """Keep llama.cpp's log off standard error, whose last line the harness shows."""
    if level == ERROR_LEVEL:
        sys.stderr.write(text.decode("utf-8", "replace"))


class Model:
    """A GGUF file, and a context for ``rows`` sequences of ``positions`` each."""

    def __init__(self, model: str, threads: int, rows: int, positions: int, options: dict) -> None:
        llama.llama_log_set(log_errors, ctypes.c_void_p(0))
        llama.llama_backend_init()
        loaded = llama.llama_model_load_from_file(model.encode(), llama.llama_model_default_params())
        if not loaded:
            raise ValueError(f"{model} cannot be loaded")
        parameters = llama.llama_context_default_params()
        parameters.n_ctx = rows * positions
        parameters.n_seq_max = rows
        parameters.n_threads = parameters.n_threads_batch = threads
        if options.get("exact"):
            parameters.type_k = parameters.type_v = llama.GGML_TYPE_F32
            parameters.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = llama.llama_init_from_model(loaded, parameters)
        if not self.context:
            raise ValueError("no context can be made")
        self.vocabulary = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(loaded))
        self.most = parameters.n_batch
        self.lengths: list[int] = []
        self.logits: list[bytes] = []

    def prefill(self, tokens: list[list[int]], keep: bool) -> None:
        """Forget everything, and read one sequence for each row. ``keep`` keeps the last logits of each."""
        llama.llama_memory_clear(llama.llama_get_memory(self.context), True)
        self.lengths = [len(row) for row in tokens]
        self.logits = []
        for sequence, row in enumerate(tokens):
            places = [(id, position, sequence, position == len(row) - 1) for position, id in enumerate(row)]
            for start in range(0, len(places), self.most):
                self._read(places[start : start + self.most], keep)

    def decode(self, tokens: list[int], keep: bool) -> None:
        """Read the next id of each sequence."""
        self.logits = []
        self._read([(id, self.lengths[sequence], sequence, True) for sequence, id in enumerate(tokens)], keep)
        self.lengths = [length + 1 for length in self.lengths]

    def generate(self, count: int) -> None:
        """Read ``count`` random ids of each sequence, one at a time."""
        for _ in range(count):
            self.decode([random.randrange(self.vocabulary) for _ in self.lengths], False)

    def _read(self, places: list[tuple[int, int, int, bool]], keep: bool) -> None:
        """Read ids, each at a position of a sequence, and wait for the logits of those that want them."""
        batch = llama.llama_batch_init(len(places), 0, 1)
        batch.n_tokens = len(places)
        for i, (id, position, sequence, wanted) in enumerate(places):
            batch.token[i] = id
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = wanted
        code = llama.llama_decode(self.context, batch)
        llama.llama_synchronize(self.context)
        llama.llama_batch_free(batch)
        if code:
            raise ValueError(f"llama_decode returned {code}")
        if keep:
            wanted_at = [i for i, place in enumerate(places) if place[3]]
            rows = [llama.llama_get_logits_ith(self.context, i) for i in wanted_at]
            self.logits += [ctypes.string_at(row, 4 * self.vocabulary) for row in rows]


def most_resident() -> int:
    """Linux's ``ru_maxrss`` begins with the parent's, and its VmHWM does not."""
    if sys.platform == "linux":
        with open("/proc/self/status") as status:
            return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    model: Model | None = None
    for line in sys.stdin:
        question = json.loads(line)
        call = question["call"]
        answer: dict[str, Any]
        begin = time.perf_counter()
        try:
            if call == "load":
                model = Model(*(question[name] for name in ("model", "threads", "rows", "positions", "options")))
            elif call == "generate" and model is not None:
                model.generate(question["count"])
            elif call == "prefill" and model is not None:
                model.prefill(question["tokens"], bool(question["logits"]))
            elif call == "decode" and model is not None:
                model.decode(question["tokens"], bool(question["logits"]))
            elif call != "usage":
                raise ValueError(f"{call!r} is no question, or no model is loaded")
            answer = {"seconds": time.perf_counter() - begin}
            if call == "usage":
                answer = {"cpu": time.process_time(), "memory": most_resident()}
            if model is not None and question.get("logits"):
                with open(question["logits"], "wb") as file:
                    file.writelines(model.logits)
        except Exception as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), file=answers)


if __name__ == "__main__":
    main()
