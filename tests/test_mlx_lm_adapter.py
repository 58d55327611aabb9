"""The class that mlx-lm drives gives our logits, however mlx-lm cuts, pads, batches and copies. ``make mlx-lm-test``
has mlx-lm itself do it."""

import copy
import json

import mlx.core as mx
import numpy as np
import pytest

from gptoss_mlx.errors import StorageError
from gptoss_mlx.mlx_lm_adapter import Model, ModelArgs, write_folder
from gptoss_mlx.runtime import load
from tests.support.measure import relative_l2

ROWS = [[(7 * i + 13 * row + 5) % 900 for i in range(length)] for row, length in enumerate((150, 40, 97))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlx-lm") / "tiny"
    write_folder("tiny", folder)
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return Model(ModelArgs.from_dict(json.loads((folder / "config.json").read_text())))


@pytest.fixture(scope="module")
def wanted(model):
    return [np.array(model.runtime.logits([row]))[0] for row in ROWS]


def test_without_a_cache_a_batch_has_the_logits_of_its_rows(model, wanted):
    found = np.array(model(mx.array([row[:40] for row in ROWS])))
    for got, want in zip(found, wanted, strict=True):
        assert relative_l2(got, want[:40]) <= 1e-5


def test_padded_prompts_are_read_to_their_own_ends_and_go_on_together(model, wanted):
    """As PromptProcessingBatch and GenerationBatch do: merge, pad on the right, read in steps, decode, drop a row."""
    cache = model.make_cache()[0].merge([model.make_cache()[0] for _ in ROWS])
    begun = [row[:-2] for row in ROWS]
    longest = max(map(len, begun))
    cache.prepare(lengths=[len(row) for row in begun], right_padding=[longest - len(row) for row in begun])
    padded = mx.array([row + [0] * (longest - len(row)) for row in begun])
    parts = [np.array(model(padded[:, at : at + 64], [cache])) for at in range(0, longest, 64)]
    cache.finalize()
    for got, row, want in zip(np.concatenate(parts, axis=1), begun, wanted, strict=True):
        assert relative_l2(got[: len(row)], want[: len(row)]) <= 1e-5
        assert not got[len(row) :].any()
    assert [row.length for row in cache.rows] == [len(row) for row in begun]
    step = np.array(model(mx.array([[row[-2]] for row in ROWS]), [cache]))
    assert step.shape == (3, 1, model.runtime.config.vocab_size)
    cache.filter([0, 2])
    last = np.array(model(mx.array([[ROWS[0][-1]], [ROWS[2][-1]]]), [cache]))[:, 0]
    for got, want in zip(last, (wanted[0][-1], wanted[2][-1]), strict=True):
        assert relative_l2(got, want) <= 1e-5


def test_copies_extracts_and_extensions_do_not_share_what_they_read_later(model, wanted):
    cache = model.make_cache()
    model(mx.array([ROWS[0][:100]]), cache)
    other, taken = copy.deepcopy(cache), cache[0].extract(0)
    model(mx.array([ROWS[1]]), cache)
    for apart in (other, [taken]):
        assert relative_l2(np.array(model(mx.array([ROWS[0][100:]]), apart))[0], wanted[0][100:]) <= 1e-5
    both = model.make_cache()[0]
    model(mx.array([ROWS[2][:-1]]), [both])
    taken.extend(both)
    found = np.array(model(mx.array([[1], [ROWS[2][-1]]]), [taken]))
    assert relative_l2(found[1, 0], wanted[2][-1]) <= 1e-5


def test_rows_go_on_together_where_experts_are_read_from_disk(model, wanted, monkeypatch):
    paged = load(model.args.path, slots=4)
    assert paged.model.may_miss
    monkeypatch.setattr(model, "runtime", paged)
    cache = model.make_cache()[0].merge([model.make_cache()[0] for _ in ROWS[:2]])
    cache.prepare(lengths=[90, 39], right_padding=[0, 51])
    model(mx.array([ROWS[0][:90], ROWS[1][:39] + [0] * 51]), [cache])
    cache.finalize()
    found = np.array(model(mx.array([[ROWS[0][90]], [ROWS[1][39]]]), [cache]))[:, 0]
    for got, want in zip(found, (wanted[0][90], wanted[1][39]), strict=True):
        assert relative_l2(got, want) <= 1e-5


def test_a_cache_says_what_it_holds(model):
    (cache,) = model.make_cache()
    assert cache.empty()
    model(mx.array([[1, 2, 3, 4, 5, 6]]), [cache])
    mx.eval(cache.state)
    assert (cache.empty(), cache.size(), cache.is_trimmable()) == (False, 6, False)
    assert cache.nbytes == sum(array.nbytes for array in cache.state) > 0


def test_a_folder_is_not_written_over(folder):
    with pytest.raises(StorageError, match="give a new folder"):
        write_folder("tiny", folder)
