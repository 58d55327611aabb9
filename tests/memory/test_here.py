"""Sizes that users give are read, or refused in one line, and a plan for this machine follows them."""

import re

import pytest

import gptoss_mlx
from gptoss_mlx import machine
from gptoss_mlx.errors import ContextLengthError, MemoryBudgetError, UsageError
from gptoss_mlx.limits import context_limit, memory_limit
from gptoss_mlx.memory.caches import cache_bytes
from gptoss_mlx.memory.here import plan_here
from gptoss_mlx.memory.plan import LEAST_CONTEXT
from gptoss_mlx.model_folder import ModelFolder
from tests.support.checkpoints import SMALL
from tests.support.models import random_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return random_model(tmp_path_factory.mktemp("budget"), SMALL).folder.path


@pytest.mark.parametrize(
    ("given", "nbytes"),
    [
        ("10GB", 10 * 10**9),
        ("9.5 gib", 9.5 * 2**30),
        ("512M", 512 * 10**6),
        ("1 KiB", 1024),
        ("7000", 7000),
        (12345, 12345),
        ("auto", None),
        (None, None),
    ],
)
def test_a_size_is_read(given, nbytes):
    assert memory_limit(given) == nbytes


@pytest.mark.parametrize(
    "given",
    ["", "0", "0GB", "-1GB", "-5", "ten", "10 parsecs", "1e3", "GB", "9" * 30, "10GB\n5", 0, -1, 1.5, True, "nan"],
)
def test_nonsense_is_refused_in_one_line(given):
    with pytest.raises(UsageError, match="memory is") as refused:
        memory_limit(given)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 150


@pytest.mark.parametrize("given", [0, -1, 1.5, "many", True])
def test_a_context_of_nonsense_is_refused_in_one_line(given):
    with pytest.raises(UsageError, match="context is") as refused:
        context_limit(given)
    assert "\n" not in str(refused.value)


def test_a_model_is_held_to_the_context_that_was_asked_for(folder):
    runtime = gptoss_mlx.load(folder, context=300)
    assert runtime.config.max_position_embeddings == 300
    assert not runtime.plan.notices
    with pytest.raises(ContextLengthError, match="300"):
        list(runtime.generate([1] * 300, max_tokens=1))
    assert len(list(runtime.generate([1] * 296, max_tokens=50, stop=()))) == 4


def test_a_context_shortened_to_fit_is_said(folder):
    whole = gptoss_mlx.load(folder)
    least = whole.plan.peak - whole.plan["prefix cache"]
    runtime = gptoss_mlx.load(folder, memory=least - cache_bytes(whole.config, 65536, whole.model.weights.dtype))
    assert LEAST_CONTEXT <= runtime.plan.context < 131072
    assert any("instead of the model's 131,072" in notice for notice in runtime.plan.notices)
    assert runtime.prefixes.budget == runtime.plan["prefix cache"]


def test_a_budget_that_holds_no_model_is_refused_in_one_line(folder):
    with pytest.raises(MemoryBudgetError, match=r"allow more: --memory \d+\.\d\dGB") as refused:
        gptoss_mlx.load(folder, memory="1MB")
    assert "\n" not in str(refused.value)


def test_a_plan_for_more_than_is_free_is_made_and_said(folder, monkeypatch):
    # Much more than this process has, which other tests have made grow.
    monkeypatch.setattr(machine, "spendable_bytes", lambda: 3_000_000)
    found = gptoss_mlx.load(folder, memory="8GB").plan
    (notice,) = found.notices
    assert re.fullmatch(r"the model may take (\d\.\d\d) GB, and 0\.00 GB are free here; beyond that .*", notice)
    assert found.peak > 3_000_000
    monkeypatch.setattr(machine, "spendable_bytes", lambda: 2 * found.peak)  # the process has grown since
    assert not plan_here(ModelFolder.open(folder).config, "bf16", memory=found.budget).notices


def test_a_budget_below_all_experts_pages_them_and_changes_no_token(folder):
    whole = gptoss_mlx.load(folder, context=512)
    budgets = range(whole.plan.peak - whole.plan["prefix cache"], 0, -100_000)
    plans = (plan_here(whole.config, whole.folder.dense, memory=budget, context=512) for budget in budgets)
    paged = gptoss_mlx.load(folder, memory=next(plan.budget for plan in plans if plan.decision == "paged"), context=512)
    assert whole.config.num_experts_per_tok <= paged.plan.slots < whole.config.num_local_experts
    assert paged.plan.decision == "paged"
    assert any("are read from disk when they are chosen" in notice for notice in paged.plan.notices)
    prompt = list(range(1, 200))
    answers = [list(runtime.generate(prompt, max_tokens=60, temperature=0, stop=())) for runtime in (whole, paged)]
    assert len(answers[0]) == 60
    assert answers[0] == answers[1]
    assert paged.model.weights.paged.decode.misses > 0
