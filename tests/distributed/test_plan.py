"""How layers are dealt out by memory, and what fits on all ranks together."""

import mlx.core as mx
import pytest

from gptoss_mlx.config import PUBLISHED
from gptoss_mlx.distributed.plan import Room, joint_plan, part_of, shares
from gptoss_mlx.errors import MemoryBudgetError, UsageError
from gptoss_mlx.memory.caches import cache_bytes
from gptoss_mlx.memory.plan import plan

GB = 10**9
CONFIG = PUBLISHED["20b"]


def dealt(*gigabytes: float, config=CONFIG, context: int | None = None):
    rooms = [Room(f"rank {n}", int(size * GB), "metal") for n, size in enumerate(gigabytes)]
    return shares(config, "q8", rooms, context=context, dtype=mx.bfloat16)


@pytest.mark.parametrize("gigabytes", [(11, 11), (24, 11), (11, 24), (8, 8, 8), (5, 5, 5, 5), (40, 7, 7)])
def test_every_layer_is_on_one_rank_in_order(gigabytes):
    found = dealt(*gigabytes)
    assert [layer for share in found for layer in share.layers] == list(range(CONFIG.num_hidden_layers))
    assert all(len(share.layers) for share in found)
    assert all(share.plan.peak <= size * GB for share, size in zip(found, gigabytes, strict=True))


def test_equal_macs_get_equal_parts_but_for_the_vocabulary():
    first, second = dealt(11, 11)
    assert len(first.layers) == len(second.layers) == 12
    assert first.plan["embedding"] > 10**8 > second.plan["embedding"]
    assert first.plan["head"] > 10**8 > second.plan["head"]


def test_the_larger_mac_gets_more_layers():
    larger, smaller = dealt(24, 8)
    assert len(larger.layers) > 2 * len(smaller.layers)
    assert [len(share.layers) for share in dealt(8, 24)][1] > 16


def test_two_macs_hold_what_one_cannot():
    assert plan(CONFIG, "q8", 10 * GB, "metal", dtype=mx.bfloat16).slots is not None
    assert all(share.plan.slots is None for share in dealt(10, 10))
    large = PUBLISHED["120b"]
    assert plan(large, "q8", 46 * GB, "metal", dtype=mx.bfloat16).slots is not None
    assert all(share.plan.slots is None for share in dealt(46, 46, config=large))


def test_all_ranks_have_the_context_and_the_chunk_of_the_smallest():
    found = dealt(30, 2.4, 30)
    assert len({(share.plan.context, share.plan.chunk) for share in found}) == 1
    assert len({share.plan.context for share in dealt(10, 10, context=9000)}) == 1
    assert dealt(10, 10, context=9000)[1].plan.context == 9000


def test_what_fits_on_all_is_what_fits_on_the_tightest():
    found = dealt(24, 8, context=8192)
    joint = joint_plan(CONFIG, found, mx.bfloat16)

    def rows(plan, layers):
        part = part_of(CONFIG, layers, ends=False)
        return (plan["caches"] + plan.room) // cache_bytes(part, plan.context, mx.bfloat16)

    own = rows(joint, found[0].layers)
    assert own <= min(rows(share.plan, share.layers) for share in found)
    assert own >= min(rows(share.plan, share.layers) for share in found) - 1
    assert joint["prefix cache"] <= found[0].plan["prefix cache"]
    assert joint.context == 8192


def test_notices_say_which_rank_has_less():
    joint = joint_plan(CONFIG, dealt(3, 3), mx.bfloat16)
    assert any(notice.startswith("rank 1: ") and "experts" in notice for notice in joint.notices)


def test_a_rank_whose_part_does_not_fit_is_named():
    with pytest.raises(MemoryBudgetError, match=r"rank 1, layers \d+ to \d+: the model needs at least"):
        dealt(30, 0.1)


def test_more_ranks_than_layers_are_refused():
    with pytest.raises(UsageError, match="25 ranks are more than the model's 24 layers"):
        dealt(*[4] * 25)
