"""What was read comes back from disk as it was, and nothing comes back that is not."""

import os
import resource
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

import gptoss_mlx
from gptoss_mlx.bounded_folder import DIGEST_BYTES, BoundedFolder
from gptoss_mlx.engine import snapshot
from gptoss_mlx.engine.generate import generate
from gptoss_mlx.engine.prefix_cache import PrefixCache, PrefixView
from gptoss_mlx.engine.snapshot import BLOCK, Snapshots
from gptoss_mlx.model.cache import KVCache
from gptoss_mlx.sampling import Sampling
from metal_kernels import launch
from tests.support.checkpoints import SMALL
from tests.support.measure import relative_l2
from tests.support.models import random_model

KEY = "a model"


def ids(seed, length):
    return np.random.default_rng(seed).integers(0, 512, length).tolist()


def read(runtime, *prompts):
    """A context that has read each of ``prompts``, one the beginning of the next, with a mark after each."""
    context = runtime.context()
    for prompt in prompts:
        context.read(prompt)
        context.mark()
    return context


@pytest.fixture
def folder(tmp_path):
    return BoundedFolder(tmp_path / "snapshots", 1 << 30)


@pytest.fixture
def view(runtime, folder):
    """Make the view of a process that has read nothing yet."""
    return lambda memory=0, disk=folder.budget, key=KEY, model=runtime.model: PrefixView(
        PrefixCache(memory, Snapshots(replace(folder, budget=disk))), model, key
    )


def saved(view, context):
    view.save(context)
    view.prefixes.close()
    assert view.prefixes.notice() is None


@pytest.mark.parametrize("length", [1, 60, 127, 128, 129, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 700])
def test_a_context_from_disk_continues_with_the_bits_of_one_that_never_left_and_as_a_cold_one(runtime, view, length):
    """Within the window of 128, past it, and on both sides of a block's end. One token alone lies in a tail, and comes
    back in a body: sums then have another order."""
    whole = ids(1, length + 300)
    warm = read(runtime, whole[:length])
    saved(view(), warm)
    restored = view().resume(runtime.context(), whole)
    assert restored.ids == whole[:length]
    assert [mark.length for mark in restored.marks] == [length]
    for end in (length + 1, length + 140, length + 300):
        got = np.array(restored.read(whole[:end], chunk=100))
        apart = relative_l2(got, np.array(warm.read(whole[:end], chunk=100)))
        assert apart <= (1e-6 if length == 1 else 0)
    assert relative_l2(got, np.array(runtime.context().read(whole))) <= 1e-5


def test_decoding_goes_on_from_disk_as_if_it_had_not_stopped(runtime, view):
    """Also from a mark behind which decoding has gone on, so that its last rows lie in a tail."""
    whole = ids(1, 290)
    context = read(runtime, whole[:200])
    greedy = Sampling(temperature=0)
    said = list(generate(context, whole, max_tokens=100, sampling=greedy, stop=()))
    context.mark()
    saved(view(), context)
    for prompt, length in (([*whole[:200], 1], 200), ([*whole, 1], 290), ([*whole, *said, 1], 389)):
        restored = view().resume(runtime.context(), prompt)
        assert len(restored.ids) == length
        options = {"max_tokens": 20, "sampling": greedy, "stop": ()}
        assert list(generate(restored, prompt, **options)) == list(generate(runtime.context(), prompt, **options))


@pytest.mark.parametrize("change", [{"sliding_window": 1}, {"layer_types": ["full_attention"] * 4}, {}])
def test_every_layout_of_layers_comes_back_in_both_dtypes(tmp_path, view, change):
    source = random_model(tmp_path, SMALL | change, seed=3)
    for dtype in ("float32", "bfloat16"):
        runtime = gptoss_mlx.load(source.folder.path, dtype=dtype)
        whole = ids(1, 400)
        warm = read(runtime, whole[:300])
        saved(view(key=dtype, model=runtime.model), warm)
        restored = view(key=dtype, model=runtime.model).resume(runtime.context(), whole)
        assert len(restored.ids) == 300
        assert restored.cache.layers[0].body.dtype == getattr(mx, dtype)
        assert mx.array_equal(restored.read(whole), warm.read(whole))


def test_a_longer_context_adds_only_what_is_new_and_all_its_marks_can_be_resumed_from(runtime, view, folder):
    whole = ids(1, 5 * BLOCK + 30)
    context = read(runtime, whole[:100], whole[: 2 * BLOCK + 10])
    saved(view(), context)
    before = {name: (folder.path / name).stat().st_ino for name in folder.names()}
    assert len(before) == 2 + 2, "two blocks, two snapshots"
    context.read(whole)
    context.mark()
    saved(view(), context)
    assert len(folder.names()) == 5 + 3
    assert before == {name: (folder.path / name).stat().st_ino for name in before}, "nothing was written twice"
    other = read(runtime, [*whole[: 3 * BLOCK], *ids(2, BLOCK)])
    saved(view(), other)
    assert len(folder.names()) == 5 + 3 + 1 + 1, "a context that parts from it shares its beginning"
    for length, mark in ((101, 100), (2 * BLOCK, 100), (2 * BLOCK + 11, 2 * BLOCK + 10), (len(whole) + 1, len(whole))):
        prompt = [*whole, 5][:length]
        restored = view().resume(runtime.context(), prompt)
        assert len(restored.ids) == mark
        assert relative_l2(np.array(restored.read(prompt)), np.array(runtime.context().read(prompt))) <= 1e-5


def test_nothing_of_another_model_dtype_version_or_backend_is_found(runtime, view, monkeypatch):
    whole = ids(1, 300)
    saved(view(), read(runtime, whole))
    prompt = [*whole, 1]
    assert view().reusable(runtime.context(), prompt) == 300
    assert view(key="another").reusable(runtime.context(), prompt) == 0
    assert runtime.model_key == f"{runtime.hash} mlx.core.float32"
    for target, name, value in (
        (mx, "__version__", "0.0"),
        (snapshot, "VERSION", "another"),
        (launch, "where", lambda: "elsewhere"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, name, value)
            assert view().reusable(runtime.context(), prompt) == 0
            assert view().resume(runtime.context(), prompt).ids == []


def foreign(path):
    """Replace a file by that of other ids, whole and of the right size."""
    others = [other for other in path.parent.iterdir() if other.name[:3] == path.name[:3] and other != path]
    same = [other for other in others if other.stat().st_size == path.stat().st_size]
    path.write_bytes(same[0].read_bytes())


def flipped(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 16
    path.write_bytes(data)


def truncated(path):
    os.truncate(path, path.stat().st_size - 4096)


def empty(path):
    path.write_bytes(b"")


def missing(path):
    path.unlink()


@pytest.fixture(scope="module")
def three(runtime):
    """Three contexts of the same lengths, with marks at 200 and 700."""
    return [read(runtime, ids(seed, 720)[:200], ids(seed, 720)[:700]) for seed in (1, 8, 9)]


@pytest.mark.parametrize("damage", [foreign, flipped, truncated, empty, missing])
@pytest.mark.parametrize("which", ["at-700", "kv-256", "kv-512"])
def test_a_damaged_snapshot_is_ignored_and_rebuilt(runtime, view, folder, three, damage, which):
    """A shorter one that does not need the damaged file is used instead. The reply is that of a cold start."""
    whole = ids(1, 720)
    context = three[0]
    for one in three:
        saved(view(), one)
    good = {path.name: path.read_bytes() for path in folder.path.iterdir()}
    named = snapshot._Names.of(KEY, whole, [700]).files(700)
    (hit,) = [name for name in named if name.startswith(which)]
    damage(folder.path / hit)
    restored = view().resume(runtime.context(), whole)
    assert len(restored.ids) == 200
    assert relative_l2(np.array(restored.read(whole)), np.array(runtime.context().read(whole))) <= 1e-5
    saved(view(), context)
    assert {path.name: path.read_bytes() for path in folder.path.iterdir()} == good
    assert len(view().resume(runtime.context(), whole).ids) == 700


def test_a_file_of_the_right_name_and_digest_but_another_size_is_ignored(runtime, view, folder):
    whole = ids(1, 300)
    saved(view(), read(runtime, whole[:290]))
    for name in folder.names():
        folder.write(name, [memoryview(b"short")])
    assert view().resume(runtime.context(), whole).ids == []


def test_what_memory_drops_and_what_it_holds_at_the_end_is_on_disk(runtime, view):
    contexts = [read(runtime, ids(seed, 300)) for seed in range(3)]
    one = view(memory=1 << 30)
    one.keep(contexts[0])
    first = view(memory=2 * one.prefixes.nbytes)
    for context in contexts:
        first.keep(context)
    assert len(first.prefixes) == 2
    first.prefixes.snapshots.writer.close()
    found = [view().reusable(runtime.context(), [*ids(seed, 300), 1]) for seed in range(3)]
    assert found == [300, 0, 0], "what was dropped"
    assert first.reusable(runtime.context(), [*ids(0, 300), 1]) == 300
    first.prefixes.close()
    assert [view().reusable(runtime.context(), [*ids(seed, 300), 1]) for seed in range(3)] == [300] * 3


def test_the_budget_on_disk_holds_and_shared_beginnings_outlast_their_contexts(runtime, view, folder):
    head = ids(1, BLOCK)
    contexts = [read(runtime, head, head + ids(seed, 2 * BLOCK)) for seed in range(2, 8)]
    saved(view(), contexts[0])
    size = sum((folder.path / name).stat().st_size for name in folder.names())
    for context in contexts:
        saved(view(disk=2 * size), context)
        assert sum((folder.path / name).stat().st_size for name in folder.names()) <= 2 * size
    found = [view().reusable(runtime.context(), [*context.ids, 1]) for context in contexts]
    assert found[-1] == 3 * BLOCK
    assert found[0] == BLOCK
    saved(view(disk=size // 2), contexts[0])
    assert view().reusable(runtime.context(), [*contexts[0].ids, 1]) == BLOCK, "too large to be begun"


def test_a_gain_that_loading_would_cost_is_left(runtime, view):
    """A context is not loaded to save a few tokens."""
    whole = ids(1, 600)
    saved(view(), read(runtime, whole[:595]))
    context = read(runtime, whole[:590])
    assert view().resume(context, [*whole[:596], 1]) is context
    assert len(view().resume(read(runtime, whole[:500]), whole).ids) == 595


@pytest.mark.parametrize("fault", ["a file in the way", "full"])
def test_a_disk_that_takes_nothing_is_told_once_and_costs_nothing_else(runtime, view, folder, monkeypatch, fault):
    whole = ids(1, 300)
    own = view(memory=1 << 30)
    if fault == "full":

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("gptoss_mlx.bounded_folder.write_all", full)
    else:
        folder.path.write_text("in the way")
    context = own.resume(runtime.context(), whole)
    context.read(whole)
    context.mark()
    own.save(context)
    own.prefixes.close()
    assert "nothing else is lost" in own.prefixes.notice()
    assert own.prefixes.notice() is None
    own.save(context)
    own.keep(context)
    own.prefixes.close()
    assert own.prefixes.notice() is None
    assert len(own.resume(runtime.context(), [*whole, 1]).ids) == 300


def test_a_write_that_the_system_stops_in_the_middle_leaves_what_was_there(runtime, view, folder):
    """By a limit on the size of a file, which a block of 512 kB exceeds."""
    own = view()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, limits[1]))
    try:
        own.save(read(runtime, ids(1, 50)))
        own.save(read(runtime, ids(2, 2 * BLOCK)))
        own.prefixes.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in own.prefixes.notice()
    assert view().reusable(runtime.context(), [*ids(1, 50), 1]) == 50
    assert view().reusable(runtime.context(), [*ids(2, 2 * BLOCK), 1]) == 0
    assert {path.name[:3] for path in folder.path.iterdir()} == {"at-", ".lo"}


def test_saving_holds_no_more_copies_than_allowed(runtime, view, monkeypatch):
    """The writer is slow. What is copied and waits for it stays bounded, and all of it is written."""
    waiting = []
    own = view()
    room = own.prefixes.snapshots.writer._room
    real = BoundedFolder.write

    def slow(self, name, parts):
        waiting.append(snapshot.PENDING - room._value)
        mx.synchronize()
        real(self, name, parts)

    monkeypatch.setattr(BoundedFolder, "write", slow)
    saved(own, read(runtime, ids(1, 12 * BLOCK)))
    assert len(waiting) == 13
    assert max(waiting) <= snapshot.PENDING
    assert room._value == snapshot.PENDING
    assert own.reusable(runtime.context(), [*ids(1, 12 * BLOCK), 1]) == 12 * BLOCK


def test_what_memory_holds_is_written_without_waiting_and_once(runtime, view, monkeypatch):
    """As a server does between its steps and while it is idle: the writer is slow, and no call waits for it."""
    own = view(memory=1 << 30)
    context = read(runtime, ids(1, 100), ids(1, 100) + ids(2, 10 * BLOCK))
    own.keep(context)
    go = threading.Event()
    written = []
    real = BoundedFolder.write

    def slow(self, name, parts):
        go.wait()
        written.append(name)
        real(self, name, parts)

    monkeypatch.setattr(BoundedFolder, "write", slow)
    assert not own.prefixes.write()
    assert not own.prefixes.write()
    assert len(own.prefixes.snapshots.writer.waiting) == snapshot.PENDING
    go.set()
    while not own.prefixes.write():
        time.sleep(0.001)
    own.prefixes.snapshots.writer.close()
    assert len(written) == len(set(written)) == 10 + 2
    assert own.prefixes.write()
    assert view().reusable(runtime.context(), [*context.ids, 1]) == len(context.ids)
    assert view().reusable(runtime.context(), [*ids(1, 100), 1]) == 100


def test_a_file_that_is_written_while_the_folder_is_listed_is_not_written_again(runtime, view, monkeypatch):
    own = view()
    writer = own.prefixes.snapshots.writer
    context = read(runtime, ids(1, 100))
    go = threading.Event()
    written = []
    write, names = BoundedFolder.write, BoundedFolder.names

    def slow(self, name, parts):
        go.wait()
        written.append(name)
        write(self, name, parts)

    def before_it_is_there(self):
        found = names(self)
        go.set()
        while writer.waiting:
            time.sleep(0.001)
        return found

    monkeypatch.setattr(BoundedFolder, "write", slow)
    own.save(context)
    monkeypatch.setattr(BoundedFolder, "names", before_it_is_there)
    own.save(context)
    writer.close()
    assert len(written) == 1


def test_memory_that_runs_out_while_copying_is_no_error_of_the_reply(runtime, view, monkeypatch):
    def out(*_, **__):
        raise RuntimeError("[metal::malloc] out of memory")

    own = view()
    context = read(runtime, ids(1, 300))
    monkeypatch.setattr(KVCache, "full_rows", lambda *_: [SimpleNamespace(nbytes=1, view=out)])
    own.save(context)
    own.prefixes.close()
    assert "out of memory" in own.prefixes.notice()


def test_a_snapshot_takes_little_more_than_its_keys_and_values(runtime, view, folder):
    context = read(runtime, ids(1, 2 * BLOCK + 100))
    saved(view(), context)
    size = sum((folder.path / name).stat().st_size for name in folder.names())
    exact = sum(array.nbytes for array in context.cache.kept())
    assert size == exact + len(folder.names()) * DIGEST_BYTES
