"""Load a model within a budget, read a prompt, decode, and keep all logits: the program of ``tests.reports.memory``.

    python -m tests.support.limited_run MODEL MEMORY PROMPT DECODED LOGITS

Where experts are paged, the first half of the tokens run ahead, and the others wait in every layer.

Writes float32 logits [1 + DECODED, V] to the file LOGITS, and prints JSON.
"""

import json
import sys
import time
from dataclasses import asdict

CONTEXT = 128


def main() -> None:
    import mlx.core as mx
    import numpy as np

    from gptoss_mlx.runtime import load
    from tests.support.models import always_ahead

    model, memory, prompt, decoded, out = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    begin = time.perf_counter()
    runtime = load(model, memory=memory, context=CONTEXT)
    loaded = time.perf_counter()
    assert runtime.tokenizer is not None
    ids = np.random.default_rng(0).integers(0, runtime.config.vocab_size, prompt).tolist()
    context = runtime.context()
    seconds = []
    steps = []
    paged = runtime.model.weights.paged
    with open(out, "wb") as file:
        logits = context.read(ids, chunk=runtime.chunk)
        np.array(logits).tofile(file)
        read = time.perf_counter()
        for number in range(decoded):
            start = time.perf_counter()
            waited = 0
            if paged is not None:
                always_ahead(runtime, number < decoded // 2)
                waited = paged.decode.readbacks
            step = runtime.model.decode(mx.argmax(logits, axis=-1), [context.cache])
            repeats = 0
            while step.repeat():
                repeats += 1
            logits = runtime.model.logits(step.x)
            mx.eval(logits)
            seconds.append(time.perf_counter() - start)
            np.array(logits).tofile(file)
            if paged is not None:
                waited = paged.decode.readbacks - waited
                steps.append({"ahead": step.ahead, "repeats": repeats, "readbacks": waited, "seconds": seconds[-1]})
    plan = runtime.plan
    found = {
        "slots": plan.slots,
        "layers": runtime.config.num_hidden_layers,
        "experts": runtime.config.num_local_experts,
        "budget": plan.budget,
        "running": max(plan.held - plan["prefix cache"], plan.loading),
        "loading": loaded - begin,
        "reading": read - loaded,
        "first": seconds[0],
        "steps": steps,
        "token": sorted(seconds)[len(seconds) // 2],
        "decode": None if paged is None else asdict(paged.decode),
        "prefill": None if paged is None else asdict(paged.prefill),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
