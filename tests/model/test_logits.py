"""The decoder agrees with transformers in float32, in whatever chunks it reads the tokens."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

import gptoss_mlx
from convert import convert
from metal_kernels import launch
from tests.oracle.cases import GOLDEN_CASES, Case, sampled_rows
from tests.support.checkpoints import write_checkpoint
from tests.support.measure import relative_l2, run_in_chunks

GOLDENS = Path(__file__).parent.parent / "data" / "goldens"


@pytest.fixture(scope="module")
def runtimes(tmp_path_factory):
    def load(case: Case):
        folder = tmp_path_factory.mktemp(case.name)
        convert(write_checkpoint(folder / "source", case.sizes, seed=case.seed), folder / "model", dense="bf16")
        return gptoss_mlx.load(folder / "model", dtype="float32")

    return {case.name: load(case) for case in GOLDEN_CASES}


def test_every_golden_file_is_as_the_oracle_wrote_it():
    listed = dict(line.split("  ")[::-1] for line in (GOLDENS / "SHA256SUMS").read_text().splitlines())
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in GOLDENS.iterdir()}
    del found["SHA256SUMS"]
    assert found == listed


@pytest.mark.parametrize("chunk", [1, 7, 64, 128, 300])
@pytest.mark.parametrize("length", [8, 129, 300])
@pytest.mark.parametrize("case", GOLDEN_CASES, ids=lambda case: case.name)
def test_logits_agree_with_transformers_for_any_prefill_chunk(runtimes, case, length, chunk):
    with np.load(GOLDENS / f"logits-{case.name}.npz") as golden:
        want = golden[str(length)]
    got = run_in_chunks(runtimes[case.name], case.tokens(length), chunk, sampled_rows(length))
    assert relative_l2(got, want) <= 1e-5


@pytest.mark.parametrize("chunk", [1, 7, 128])
@pytest.mark.parametrize("case", GOLDEN_CASES, ids=lambda case: case.name)
def test_logits_agree_with_transformers_without_the_native_library(runtimes, case, chunk, monkeypatch):
    monkeypatch.setenv(launch.VARIABLE, "off")
    plain = gptoss_mlx.load(runtimes[case.name].folder.path, dtype="float32")
    with np.load(GOLDENS / f"logits-{case.name}.npz") as golden:
        want = golden["129"]
    assert relative_l2(run_in_chunks(plain, case.tokens(129), chunk, sampled_rows(129)), want) <= 1e-5


def test_public_logits_take_a_batch_and_match_single_rows(runtimes):
    case = GOLDEN_CASES[0]
    rows = [case.tokens(129), case.tokens(300)[:129]]
    batch = np.array(runtimes[case.name].logits(rows))
    assert batch.shape == (2, 129, case.sizes["vocab_size"])
    for row, got in zip(rows, batch, strict=True):
        assert relative_l2(got, np.array(runtimes[case.name].logits([row]))[0]) <= 1e-5


def test_bfloat16_stays_within_its_own_precision(runtimes):
    """Keys, values and rows between operations are rounded. On Metal products read bfloat16, too."""
    case = GOLDEN_CASES[0]
    half = gptoss_mlx.load(runtimes[case.name].folder.path, dtype="bfloat16")
    tokens = [case.tokens(8)]
    error = relative_l2(np.array(half.logits(tokens)), np.array(runtimes[case.name].logits(tokens)))
    assert 1e-4 < error < (0.005 if launch.on_cpu() else 0.1)
