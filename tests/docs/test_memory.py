"""The page of memory says what the plan and the speed model say."""

import re

import pytest

from gptoss_mlx.config import PUBLISHED
from gptoss_mlx.memory.plan import plan
from gptoss_mlx.prediction.published_speeds import GB
from gptoss_mlx.prediction.speed import predict, predict_paged
from tests.docs.pages import DOCS
from tests.support.diagrams.facts import default_budget

PAGE = (DOCS / "memory.md").read_text()
MACS = re.findall(r"^\| (\d+) GB \|(.*)\|$", PAGE, re.MULTILINE)
HELD = re.findall(r"^\| ([a-z ]+) \| (\d+\.\d\d) \| (\d+\.\d\d) \|$", PAGE, re.MULTILINE)
PARTS = {"experts in memory": ("experts paged",), "working room of a step": ("transient", "allocator cache")}
"""What the page calls parts of a plan, where it has other names."""

CHIPS = (("M4", 2 * GB), ("M4 Pro", 6 * GB))


@pytest.mark.parametrize(("memory", "cells"), MACS)
def test_the_table_of_what_fits_is_what_the_plan_gives(memory, cells):
    found = []
    for name in ("20b", "120b"):
        config = PUBLISHED[name]
        fits = plan(config, "q8", default_budget(int(memory) << 30), "metal")
        rates = []
        for chip, disk in CHIPS:
            whole = predict(config, "q8", chip)
            found_here = whole if fits.slots is None else predict_paged(config, "q8", chip, fits.slots, disk)
            rates.append(f"{found_here.rate:.0f}")
        held = "all" if fits.slots is None else f"{fits.slots} of {config.num_local_experts}"
        found += [held, f"{fits.context:,}", ", ".join(rates)]
    assert [cell.strip() for cell in cells.split("|")] == found


def test_a_smaller_context_leaves_room_for_as_many_experts_as_is_said():
    assert len(MACS) == 4
    slots = plan(PUBLISHED["20b"], "q8", default_budget(16 << 30), "metal", context=8192).slots
    assert f"with `--context 8192` 20b keeps {slots} of 32 on 16 GB" in " ".join(PAGE.split())


def test_what_a_mac_of_16_gb_holds_is_what_the_plan_adds_up():
    plans = [
        plan(PUBLISHED["20b"], "q8", default_budget(16 << 30), "metal", context=context) for context in (48_000, 8_192)
    ]
    for name, *said in HELD:
        held = [sum(part.nbytes for part in one.parts if part.name in PARTS.get(name, (name,))) for one in plans]
        assert said == [f"{nbytes / 1e9:.2f}" for nbytes in held], name
    named = {part for name, *_ in HELD for part in PARTS.get(name, (name,))}
    counted, others = ([part for part in plans[0].parts if part.counted is kind] for kind in (True, False))
    assert named == {part.name for part in counted}
    for part in others:
        assert f"{part.nbytes / 1e9:.2f} GB" in " ".join(PAGE.split()), part.name
    assert f"{default_budget(16 << 30) / 1e9:.1f} GB" in PAGE
