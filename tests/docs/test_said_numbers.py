"""Numbers in the prose of pages are those of the code. Tables and pictures are written from it (``test_diagrams``)."""

import pytest

from gptoss_mlx.config import FULL, PUBLISHED, SLIDING
from gptoss_mlx.engine.context import MARKS, PREFILL_CHUNK
from gptoss_mlx.engine.snapshot import BLOCK
from gptoss_mlx.memory.plan import AGENT_CONTEXT, LEAST_CHUNK, USEFUL_SHARE
from gptoss_mlx.model.cache import SHARE, TAIL
from gptoss_mlx.server.process import QUEUED
from gptoss_mlx.server.service import HEARTBEAT
from metal_kernels.dispatches import FEW_ROWS
from tests.docs.pages import DOCS
from tests.metal_kernels.emulator.planted import PLANTED
from tests.support.diagrams.facts import KEYS_OF_ONE, key_bytes
from tests.support.diagrams.tables import CHAT

SMALL, LARGE = PUBLISHED["20b"], PUBLISHED["120b"]

SAID = [
    ("how-it-works", f"{PREFILL_CHUNK} positions at a time"),
    ("how-it-works", f"20b has {SMALL.num_hidden_layers} layers, 120b has {LARGE.num_hidden_layers}"),
    ("how-it-works", f"the others the last {SMALL.sliding_window} positions"),
    ("how-it-works", f"Beyond {KEYS_OF_ONE:,} keys"),
    ("how-it-works", f"after {CHAT:,} others"),
    ("how-it-works", f"tail* of the latest {TAIL} positions"),
    ("how-it-works", f"grows by a {SHARE}th"),
    ("how-it-works", f"{SMALL.layer_types.count(SLIDING)} of 20b's {SMALL.num_hidden_layers} layers stay"),
    ("how-it-works", f"A position takes {key_bytes(SMALL):,} bytes"),
    ("how-it-works", f"Up to {FEW_ROWS} rows count as few"),
    ("how-it-works", f"{MARKS} points to which it can go back"),
    ("how-it-works", f"or else {AGENT_CONTEXT:,} tokens"),
    ("how-it-works", f"down to {LEAST_CHUNK} positions"),
    ("how-it-works", f"in blocks of {BLOCK} positions"),
    ("how-it-works", f"nothing for {HEARTBEAT:.0f} seconds"),
    ("how-it-works", f"{QUEUED} requests may wait"),
    ("shaders", f"{len(PLANTED)} small kernels"),
]


@pytest.mark.parametrize(("page", "said"), SAID)
def test_a_page_says_the_number_of_the_code(page, said):
    assert said in " ".join((DOCS / f"{page}.md").read_text().split())


def test_words_for_numbers_are_right_too():
    """A quarter of the experts, and every second layer sees all."""
    assert USEFUL_SHARE == 4
    for config in PUBLISHED.values():
        assert set(config.layer_types[::2]) == {SLIDING}
        assert set(config.layer_types[1::2]) == {FULL}
