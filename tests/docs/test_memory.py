"""README's table of what fits says what the plan and the speed model say."""

import re
from pathlib import Path

import pytest

from gptoss_mlx.config import PUBLISHED
from gptoss_mlx.machine import MARGIN
from gptoss_mlx.memory.plan import plan
from gptoss_mlx.prediction.published_speeds import GB
from gptoss_mlx.prediction.speed import predict, predict_paged

README = (Path(__file__).parent.parent.parent / "README.md").read_text()
MACS = re.findall(r"^\| (\d+) GB \|(.*)\|$", README, re.MULTILINE)
CHIPS = (("M4", 2 * GB), ("M4 Pro", 6 * GB))


def budget(gigabytes: int) -> int:
    """Return what a Mac allows by default: two thirds of its memory for the GPU, from 48 GB on three quarters."""
    return int(gigabytes * 2**30 * (2 / 3 if gigabytes < 48 else 3 / 4) * (1 - MARGIN))


@pytest.mark.parametrize(("memory", "cells"), MACS)
def test_the_table_of_what_fits_is_what_the_plan_gives(memory, cells):
    found = []
    for name in ("20b", "120b"):
        config = PUBLISHED[name]
        fits = plan(config, "q8", budget(int(memory)), "metal")
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
    slots = plan(PUBLISHED["20b"], "q8", budget(16), "metal", context=8192).slots
    assert f"with `--context 8192` 20b keeps {slots} of 32 on 16 GB" in README
