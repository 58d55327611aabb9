"""Load a model, read prompts and decode in a process of its own, and print the most anonymous bytes at each point.

``python -m tests.support.memory_peak MODEL CHUNK PROMPT DECODED`` prints JSON: ``process`` before the model is loaded,
``loading`` and ``running`` the peaks while it is loaded and while it runs, and the ``threads`` of the native library.
Linux counts the peak of what is resident. Files' part of it is taken off, as it is at the end: it only grows.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


def peaks(model: Path | str, chunk: int, prompt: int, decoded: int) -> dict[str, Any]:
    """Return what a new process prints."""
    arguments = [str(model), *map(str, (chunk, prompt, decoded))]
    command = [sys.executable, "-m", "tests.support.memory_peak", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=Path(__file__).parent.parent.parent)
    return json.loads(done.stdout)


def _status(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def _peak() -> int:
    """Return the most anonymous bytes since the last call."""
    most = _status("VmHWM") - _status("RssFile")
    CLEAR.write_text("5")
    return most


def main() -> None:
    import numpy as np

    from gptoss_mlx.engine.generate import generate
    from gptoss_mlx.runtime import load
    from gptoss_mlx.sampling import Sampling
    from metal_kernels.cpu.library import cores

    model, chunk, prompt, decoded = sys.argv[1], *map(int, sys.argv[2:])
    random = np.random.default_rng(0)
    process = _status("RssAnon")
    _peak()
    runtime = load(model, context=prompt + decoded)
    loading = _peak()
    assert runtime.tokenizer is not None
    ids = random.integers(0, runtime.config.vocab_size, prompt).tolist()
    options: dict[str, Any] = {"sampling": Sampling(seed=1), "stop": (), "prefill_chunk": chunk}
    said = list(generate(runtime.context(), ids, max_tokens=decoded, **options))
    assert len(said) == decoded
    print(json.dumps({"process": process, "threads": cores(), "loading": loading, "running": _peak()}))


if __name__ == "__main__":
    main()
