"""``make cpu-report`` measures the native CPU library on this machine: what share of the memory's speed decoding
reaches, and how fast the bundled model reads and writes.

The memory's plain read speed is what numpy reaches adding up an array on every core at once. It is measured in turns
with the library, so that other work on the machine affects both. Shares are medians; the rest is the best of several.
"""

import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import numpy as np
from rich.console import Console
from rich.table import Table

import gptoss_mlx
from gptoss_mlx.conversation import Conversation
from gptoss_mlx.events import Done
from gptoss_mlx.model.experts import memory_of
from gptoss_mlx.runtime import Runtime
from gptoss_mlx.sampling import Sampling
from metal_kernels import launch
from metal_kernels.cpu.library import cores, library
from metal_kernels.operands import Dense, Experts

H = 2880
EXPERTS = 32
VOCABULARY = 201088
EPS = 1e-5
TOKENS = 16_000


Measured = tuple[int, Callable[[], object]]
"""An action, and the bytes that it reads from memory."""
ROUNDS = 15


def timed(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def plain_read(pool: ThreadPoolExecutor) -> Measured:
    """Read a gigabyte with all cores."""
    parts = np.array_split(np.ones(1 << 27, np.int64), cores())
    return sum(part.nbytes for part in parts), lambda: list(pool.map(np.sum, parts))


def random(rng: np.random.Generator, *shape: int) -> mx.array:
    return mx.array(rng.standard_normal(shape, np.float32))


def loaded(values: np.ndarray) -> mx.array:
    """Return values as the loading of a model holds weights."""
    room = launch.room(values.nbytes)
    memory_of(room)[:] = values.reshape(-1).view(np.uint8)
    return room.view({np.dtype(np.uint8): mx.uint8, np.dtype(np.uint32): mx.uint32}[values.dtype]).reshape(values.shape)


def head_read(rng: np.random.Generator) -> Measured:
    """Read the 8-bit head of the published shape for one row."""
    codes = loaded(rng.integers(0, 1 << 32, (VOCABULARY, H // 4), np.uint32))
    affine = [random(rng, VOCABULARY, H // 64).astype(mx.bfloat16) for _ in range(2)]
    head = Dense(codes, None, *affine)
    x = random(rng, 1, H)
    norm = random(rng, H)
    mx.eval(affine)
    return sum(array.nbytes for array in (codes, *affine)), lambda: launch.norm_head(x, norm, EPS, head)


def experts_read(rng: np.random.Generator) -> Measured:
    """Read the experts of a row, layer by layer as in decode, so that no layer is still in a cache in its turn."""

    def projection(rows: int) -> Experts:
        weight = loaded(rng.integers(0, 1 << 32, (EXPERTS, rows, H // 8), np.uint32))
        scales = loaded(rng.integers(115, 119, (EXPERTS, rows, H // 32), np.uint8))
        return Experts(weight, scales, random(rng, EXPERTS, rows))

    layers = [(projection(2 * H), projection(H)) for _ in range(4)]
    slots = mx.arange(EXPERTS)
    logits = [random(rng, 1, EXPERTS) for _ in range(8)]
    x = random(rng, 1, H)
    normed = random(rng, 1, 8, H // 32, 4)
    mx.eval(slots)

    def tokens() -> None:
        for chosen in logits:
            for gate_up, down in layers:
                activated = launch.expert_gate_up(normed, chosen, slots, gate_up, 4, 7.0)
                launch.expert_down_residual(activated, chosen, slots, down, x)

    each = sum(array.nbytes for pair in layers for one in pair for array in one[:2]) / EXPERTS * 4
    return each * len(logits), tokens


def chat_rate(runtime: Runtime) -> float:
    """Return the tokens a second, by ``Usage``, of as many sampled replies of a conversation as make 256 tokens."""
    chat = Conversation(runtime, sampling=Sampling(temperature=1.0, seed=3))
    tokens = 0
    seconds = 0.0
    while tokens < 256:
        done = next(event for event in chat.send("What is 347 + 58?") if isinstance(event, Done))
        tokens += done.usage.completion_tokens
        seconds += (done.usage.completion_tokens - 1) / done.usage.tokens_per_second
    return tokens / seconds


def main() -> int:
    used = library()
    if used is None:
        print("cpu-report: there is no native library here; `gptoss-mac doctor` says why")
        return 1
    rng = np.random.default_rng(0)
    with ThreadPoolExecutor(cores()) as pool:
        readers = plain_read(pool), head_read(rng), experts_read(rng)
        speeds = np.array([[nbytes / timed(action) for nbytes, action in readers] for _ in range(ROUNDS)])
    plain, head, experts = np.median(speeds, axis=0) / 1e9
    _, head_share, experts_share = np.median(speeds / speeds[:, :1], axis=0)
    runtime = gptoss_mlx.load("tiny")
    rate = max(chat_rate(runtime) for _ in range(5))
    ids = rng.integers(0, 1000, TOKENS).tolist()
    reading = min(timed(lambda: mx.eval(runtime.context().read(ids))) for _ in range(2))
    table = Table(f"{used.architecture}, {cores()} threads", "measured", "goal")
    rows = [
        ("plain read speed", f"{plain:.1f} GB/s", "", True),
        ("head, one row", f"{head:.1f} GB/s, {head_share:.0%}", "50%", head_share >= 0.5),
        ("experts, one row", f"{experts:.1f} GB/s, {experts_share:.0%}", "50%", experts_share >= 0.5),
        ("bundled model", f"{rate:.0f} tokens/s", "800", rate >= 800),
        (f"its prefill of {TOKENS:,}", f"{reading:.1f} s", "20 s", reading <= 20),
    ]
    for *cells, _ in rows:
        table.add_row(*cells)
    Console(width=100).print(table)
    missed = [what for what, _, _, reached in rows if not reached]
    if missed:
        print(f"cpu-report: not reached: {', '.join(missed)}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
