"""Experts in slots give the bits of all experts in memory, whatever had to be read, repeated or split for it."""

import os
import shutil
from collections import Counter

import mlx.core as mx
import numpy as np
import pytest

import gptoss_mlx
from gptoss_mlx.errors import ModelFolderError, UsageError
from gptoss_mlx.fastest import AGAIN, Fastest
from gptoss_mlx.model.experts import PagedExperts
from gptoss_mlx.model.slots import Tally
from gptoss_mlx.model.weights import loaded_nbytes
from gptoss_mlx.model_folder import ModelFolder
from gptoss_mlx.model_folder.expert_slots import expert_nbytes, holds_experts
from metal_kernels import launch
from tests.support.checkpoints import SMALL, WINDOW_64
from tests.support.models import always_ahead, random_model

TOKENS = np.random.default_rng(3).integers(0, 512, 400).tolist()


@pytest.fixture(scope="module")
def resident(tmp_path_factory):
    """8 experts of which a token chooses 4, in 4 layers, all in memory."""
    return random_model(tmp_path_factory.mktemp("paged"), SMALL, seed=2)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """16 experts and a window of 64, all in memory."""
    return random_model(tmp_path_factory.mktemp("wide"), WINDOW_64, seed=4)


def paged(runtime, slots, ahead=True):
    """Return the model with so many slots, whose steps run ahead where they can, or wait in every layer."""
    own = gptoss_mlx.load(runtime.folder.path, dtype="float32", slots=slots)
    always_ahead(own, ahead)
    return own


def experts(runtime) -> PagedExperts:
    found = runtime.model.weights.paged
    assert found is not None
    return found


def by_steps(runtime, prompt, more, chunk):
    """Return the logits after a prompt that is read in chunks, and after each of ``more`` tokens, one by one."""
    context = runtime.context()
    found = [context.read(prompt, chunk=chunk)]
    found += [context.read([*prompt, *more[: count + 1]]) for count in range(len(more))]
    return np.concatenate([np.array(logits) for logits in found])


def together(runtime, prompts, steps):
    """Return the logits [steps, rows, V] of rows that are decoded together."""
    contexts = [runtime.context() for _ in prompts]
    for context, prompt in zip(contexts, prompts, strict=True):
        context.read(prompt)
    found = []
    for number in range(steps):
        step = runtime.model.decode(mx.array(TOKENS[number : number + len(prompts)]), [c.cache for c in contexts])
        while step.repeat():
            pass
        found.append(np.array(runtime.model.logits(step.x)))
    return np.array(found)


@pytest.mark.parametrize("chunk", [7, 64, 512])
@pytest.mark.parametrize("slots", [4, 5, 8])
def test_logits_have_the_same_bits_in_prompts_and_in_steps(resident, slots, chunk):
    """A prompt of 150 passes the window's length, and 70 steps fill a tail and more."""
    own = paged(resident, slots)
    prompt, more = TOKENS[:150], TOKENS[150:220]
    assert np.array_equal(by_steps(own, prompt, more, chunk), by_steps(resident, prompt, more, chunk))
    tally = experts(own).prefill
    assert (tally.repeats > 0) == (tally.evictions > 0) == (slots < 8)
    assert experts(own).complete == (slots == 8)


@pytest.mark.parametrize("kernels", ["off", "emulated"])
def test_so_they_have_in_plain_mlx_and_on_emulated_shaders(resident, kernels, monkeypatch):
    monkeypatch.setenv(launch.VARIABLE, kernels)
    loaded = gptoss_mlx.load(resident.folder.path, dtype="float32")  # matrices lie otherwise than for the library
    own = paged(resident, 5)
    prompt, more = TOKENS[:12], TOKENS[12:24]
    assert np.array_equal(by_steps(own, prompt, more, 512), by_steps(loaded, prompt, more, 512))
    assert np.array_equal(together(own, [prompt, more, prompt[3:]], 3), together(loaded, [prompt, more, prompt[3:]], 3))
    assert experts(own).decode.misses > 0


@pytest.mark.parametrize("length", [2, 5, 600])
def test_so_they_have_in_a_batch_of_prompts_from_the_library(resident, length):
    """Two rows of 2 are few, of 5 are grouped, and of 600 come in two chunks."""
    rows = [np.random.default_rng(seed).integers(0, 512, length).tolist() for seed in (1, 2)]
    assert np.array_equal(np.array(paged(resident, 4).logits(rows)), np.array(resident.logits(rows)))


@pytest.mark.parametrize("rows", [2, 3, 4, 8, 9])
@pytest.mark.parametrize("slots", [4, 6, 12, 15])
def test_rows_that_want_more_experts_than_there_are_slots_are_split(wide, slots, rows):
    """Two rows fit into 12 slots and three into 12 and 15. More go layer by layer, and nine are grouped by expert."""
    own = paged(wide, slots)
    prompts = [TOKENS[20 * n : 20 * n + 9 + 13 * n] for n in range(rows)]
    assert np.array_equal(together(own, prompts, 6), together(wide, prompts, 6))
    decode = experts(own).decode
    assert decode.misses > 0
    assert (decode.repeats > 0) == (4 * rows <= slots)
    if 4 * rows > slots:
        assert decode.readbacks == 6 * own.config.num_hidden_layers


def test_a_token_is_read_back_once_and_once_more_for_each_repeat(resident):
    own = paged(resident, 7)
    context = own.context()
    context.read(TOKENS[:40])
    counts = []
    for number in range(40, 90):
        before = experts(own).decode.repeats, experts(own).decode.readbacks
        step = own.model.decode(mx.array(TOKENS[number : number + 1]), [context.cache])
        while step.repeat():
            pass
        repeats, readbacks = (
            now - was
            for now, was in zip((experts(own).decode.repeats, experts(own).decode.readbacks), before, strict=True)
        )
        assert readbacks == 1 + repeats
        counts.append(repeats)
    assert 0 in counts
    assert max(counts) > 1
    assert experts(own).decode.wanted == 50 * 4 * 4, "each layer's choice counts once"


@pytest.mark.parametrize("slots", [4, 7])
def test_a_step_that_waits_in_every_layer_reads_nothing_in_vain_and_repeats_nothing(resident, slots):
    """It reads what least-recently-used slots miss of the choices that all experts in memory make."""
    own, ahead = paged(resident, slots, ahead=False), paged(resident, slots)
    want = together(resident, [TOKENS[:40]], 50)
    assert np.array_equal(together(own, [TOKENS[:40]], 50), want)
    assert np.array_equal(together(ahead, [TOKENS[:40]], 50), want)
    tally = experts(own).decode
    assert tally.repeats == 0
    assert tally.readbacks == 50 * 4
    assert tally.wanted == experts(ahead).decode.wanted == 50 * 4 * 4
    assert 0 < tally.misses < experts(ahead).decode.misses


@pytest.mark.parametrize("faster", [True, False])
def test_steps_run_ahead_or_not_by_what_is_faster(resident, faster, monkeypatch):
    """Each way is tried in turn, and no result depends on it."""
    own = gptoss_mlx.load(resident.folder.path, dtype="float32", slots=5)
    real = Fastest.measured
    monkeypatch.setattr(Fastest, "measured", lambda self, way, rate: real(self, way, 1.0 + (way is faster)))
    assert np.array_equal(together(own, [TOKENS[:9]], 3 * AGAIN), together(resident, [TOKENS[:9]], 3 * AGAIN))
    tally = experts(own).decode
    waited = (tally.readbacks - tally.repeats - 3 * AGAIN) // 3  # of four readbacks three are more than one
    assert waited == 3 if faster else waited == 3 * (AGAIN - 1)


def counted_reads(monkeypatch) -> list[tuple[int, int]]:
    """Return a list that gets the file and the bytes of each read."""
    reads = []
    real = os.preadv

    def preadv(descriptor, buffers, offset):
        count = real(descriptor, buffers, offset)
        reads.append((descriptor, offset, count))
        return count

    monkeypatch.setattr(os, "preadv", preadv)
    return reads


def test_four_reads_bring_an_expert_and_nothing_else_is_read(resident, monkeypatch):
    own = paged(resident, 5)
    reads = counted_reads(monkeypatch)
    by_steps(own, TOKENS[:20], TOKENS[20:60], 512)
    tally = experts(own).prefill
    size = expert_nbytes(experts(own).layers[0].stretch)
    assert size == 128 * 96 * 3 // 2 + 128 * 96 * 3 // 32, "4 bits a weight and a byte for 32 of them"
    assert tally.misses > 0
    assert len(reads) == 4 * tally.misses
    assert sum(count for _, _, count in reads) == tally.nbytes == tally.misses * size


def test_a_chunk_of_a_prompt_reads_each_expert_once(resident, monkeypatch):
    own = paged(resident, 4)
    reads = counted_reads(monkeypatch)
    context = own.context()
    for chunk in range(3):
        context.read(TOKENS[: 100 * (chunk + 1)], chunk=100)
        assert reads
        assert max(Counter((descriptor, offset) for descriptor, offset, _ in reads).values()) == 1
        reads.clear()
    assert experts(own).decode == Tally(), "a prompt is no decode step"
    assert experts(own).prefill.wanted == 3 * 4 * 8, "a hundred tokens choose every expert"
    assert experts(own).prefill.misses == 4 * (8 + 4 + 4), "of which four are still there in the next chunk"


def test_the_expert_used_longest_ago_goes(resident):
    own = experts(paged(resident, 4))
    tally = Tally()

    def logits(*ids):
        return mx.array(np.isin(np.arange(8), ids).astype(np.float32))[None]

    def held():
        return set(np.flatnonzero(own.layers[0].table >= 0).tolist())

    for ids, want in (
        ((0, 1, 2, 3), {0, 1, 2, 3}),
        ((4, 1, 2, 3), {1, 2, 3, 4}),
        ((4, 5, 2, 3), {2, 3, 4, 5}),
        ((2, 3, 4, 1), {1, 2, 3, 4}),
    ):
        assert own.first_miss(0, [logits(*ids)], tally) == 0
        assert held() == want
    assert own.first_miss(0, [logits(4, 3, 2, 1)], tally) is None
    size = expert_nbytes(own.layers[0].stretch)
    assert tally == Tally(wanted=20, misses=7, evictions=3, repeats=4, readbacks=5, nbytes=7 * size)


def test_equal_router_logits_miss_what_kernels_choose(resident):
    own = experts(paged(resident, 4))
    own.first_miss(0, [mx.zeros((1, 8))], Tally())
    assert np.flatnonzero(own.layers[0].table >= 0).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("fenced", [True, False])
def test_no_slot_is_written_while_a_pending_evaluation_reads_it(resident, fenced, monkeypatch):
    """A long product is under way before the experts are read. Without the fence its result is another."""
    monkeypatch.setenv(launch.VARIABLE, "off")
    own = paged(resident, 4)
    paging = experts(own)
    layer = own.model.weights.layers[0]
    paging.table.fetch([(0, [0, 1, 2, 3])], Tally(), paging.filling(Tally()))
    long = mx.random.normal((400, 400))
    mx.eval(long)
    rows = mx.random.normal((8, 128))

    def through(before):
        after = (rows + before[:1, :1] * 0)[:, None]
        weight, scales, _ = layer.gate_up
        chosen = mx.arange(8) % 4
        return mx.gather_qmm(after, weight, scales, rhs_indices=chosen, group_size=32, bits=4, mode="mxfp4")

    want = np.array(through(long))
    product = long
    for _ in range(6):
        product = product @ long * 0.01
    got = through(product)
    mx.async_eval(got)
    if not fenced:
        monkeypatch.setattr(mx, "synchronize", lambda *_: None)
    paging.table.fetch([(0, [4, 5, 6, 7])], Tally(), paging.filling(Tally()))
    assert np.array_equal(np.array(got), want) == fenced


def test_what_is_loaded_is_counted_by_shapes(resident):
    folder = resident.folder
    whole = sum(stretch.nbytes for stretch in folder.stretches())
    assert loaded_nbytes(folder, mx.float32) == whole
    experts_of_all = sum(stretch.nbytes for stretch in folder.stretches() if holds_experts(stretch))
    layers = experts(paged(resident, 4)).layers
    held = sum(array.nbytes for layer in layers for arrays in (layer.parts, layer.biases) for array in arrays.values())
    counted = loaded_nbytes(folder, mx.float32, 4) - (whole - experts_of_all)
    assert 0 <= counted - held < len(layers) * 6 * 16384, "parts begin on pages"
    seen = []
    gptoss_mlx.load(folder.path, slots=4, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == loaded_nbytes(folder, mx.float32, 4)


@pytest.mark.parametrize("slots", [0, -1, 3, 9, 1.5, "4"])
def test_a_number_of_slots_that_does_not_fit_the_model_is_refused(resident, slots):
    with pytest.raises(UsageError, match="slots is"):
        gptoss_mlx.load(resident.folder.path, slots=slots)


@pytest.fixture
def copied(resident, tmp_path):
    """A copy of the model folder that may be damaged."""
    return ModelFolder.open(shutil.copytree(resident.folder.path, tmp_path / "model"))


def fault_cut(folder, monkeypatch):
    for file in folder.path.glob("model-layer-*"):
        os.truncate(file, 20_000)


def fault_io(folder, monkeypatch):
    def preadv(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", preadv)


@pytest.mark.parametrize(("fault", "problem"), [(fault_cut, "truncated while"), (fault_io, "Input/output error")])
def test_experts_that_cannot_be_read_end_a_reply_in_one_line_and_can_be_read_later(
    resident, copied, fault, problem, monkeypatch
):
    own = gptoss_mlx.load(copied.path, dtype="float32", slots=4)
    want = list(resident.generate(TOKENS[:40], max_tokens=30, temperature=0, stop=()))
    stream = own.generate(TOKENS[:40], max_tokens=30, temperature=0, stop=())
    got = [next(stream) for _ in range(3)]
    fault(copied, monkeypatch)
    with pytest.raises(ModelFolderError, match=problem) as raised:
        got.extend(stream)
    assert "\n" not in str(raised.value)
    assert got == want[: len(got)]
    monkeypatch.undo()
    for file in copied.path.glob("model-layer-*"):
        file.write_bytes((resident.folder.path / file.name).read_bytes())  # in place: the same file, whole again
    assert list(own.generate(TOKENS[:40], max_tokens=30, temperature=0, stop=())) == want


def test_files_that_vanish_are_still_open(resident, copied):
    own = gptoss_mlx.load(copied.path, dtype="float32", slots=4)
    for file in copied.path.glob("model-layer-*"):
        file.unlink()
    want = list(resident.generate(TOKENS[:40], max_tokens=10, temperature=0, stop=()))
    assert list(own.generate(TOKENS[:40], max_tokens=10, temperature=0, stop=())) == want
    with pytest.raises(ModelFolderError, match="missing"):
        gptoss_mlx.load(copied.path, slots=4)


@pytest.mark.parametrize("after", [1, 20, 60])
def test_an_interrupted_read_leaves_no_slot_half_filled(resident, after, monkeypatch):
    own = paged(resident, 4)
    want = list(resident.generate(TOKENS[:40], max_tokens=20, temperature=0, stop=()))
    list(own.generate(TOKENS[40:50], max_tokens=5, temperature=0, stop=()))
    real = os.preadv
    left = [after]

    def preadv(*arguments):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", preadv)
        with pytest.raises(KeyboardInterrupt):
            list(own.generate(TOKENS[:40], max_tokens=20, temperature=0, stop=()))
    assert list(own.generate(TOKENS[:40], max_tokens=20, temperature=0, stop=())) == want
