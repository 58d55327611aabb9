"""A safetensors file with a damaged header is read or refused in one line, soon, whatever layout it has."""

import json
import random
import time
import tracemalloc

import pytest

from convert import convert
from convert.sources import open_checkpoint
from gptoss_mlx.errors import CheckpointError
from tests.reports.fuzz_files import SECONDS, SIZES, hostile
from tests.support import fine_tunes
from tests.support.checkpoints import hf_tensors

FORMS = {
    "Hugging Face": hf_tensors,
    "mlx-lm": lambda sizes: fine_tunes.mlx_lm(sizes, dense="q8"),
    "mlx-lm, experts in full": lambda sizes: fine_tunes.mlx_lm(sizes, experts="full"),
    "fine-tune": fine_tunes.full,
    "split fine-tune": fine_tunes.split,
}
FILES = 150
MOST_MEMORY = 64 << 20


def damaged(header: bytes, rng: random.Random) -> bytes:
    """Return a file's header, with its length before it, changed as JSON or as bytes."""
    if rng.random() < 0.7:
        text = hostile(json.loads(header[8:]), rng)
        return len(text).to_bytes(8, "little") + text
    changed = bytearray(header)
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(8 if rng.random() < 0.2 else len(changed))] = rng.randrange(256)
    return bytes(changed)


def swapped(header: bytes, rng: random.Random) -> bytes:
    """Return a header in which two tensors of equal size have changed places, or one has a shape or dtype as large."""
    raw = json.loads(header[8:])
    name = rng.choice(list(raw))
    entry = raw[name]
    change = rng.random()
    if change < 0.4:
        length = entry["data_offsets"][1] - entry["data_offsets"][0]
        alike = [other for other in raw if raw[other]["data_offsets"][1] - raw[other]["data_offsets"][0] == length]
        other = rng.choice(alike)
        raw[name], raw[other] = raw[other], entry
    elif change < 0.7:
        rng.shuffle(entry["shape"])
    else:
        width = {"BF16": ("F16", "I16"), "U8": ("I8", "F8_E4M3"), "U32": ("F32", "I32"), "F32": ("U32", "I32")}
        entry["dtype"] = rng.choice(width[entry["dtype"]])
    text = json.dumps(raw).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize("form", FORMS)
def test_damaged_headers(form, tmp_path):
    source = fine_tunes.write(tmp_path / "source", SIZES, FORMS[form](SIZES))
    file = source / "model.safetensors"
    whole = file.read_bytes()
    length = 8 + int.from_bytes(whole[:8], "little")
    rng = random.Random(form)
    read = 0
    lines = []
    tracemalloc.start()
    try:
        for number in range(FILES):
            change = damaged if number % 2 else swapped
            file.write_bytes(change(whole[:length], rng) + whole[length:])
            tracemalloc.reset_peak()
            begun = time.perf_counter()
            try:
                open_checkpoint(source)
                read += 1
                if read < 4:
                    convert(source, tmp_path / f"model{number}")
            except CheckpointError as error:
                lines.append(str(error))
            assert time.perf_counter() - begun < SECONDS
            assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()
    assert len(lines) > FILES // 2
    assert all(line.isprintable() and 0 < len(line) < 1500 for line in lines)
