"""The launches of one decode step, counted on recordings of the decoder at the published shapes."""

from contextlib import contextmanager

import mlx.core as mx
import pytest

from gptoss_mlx.config import ModelConfig
from metal_kernels import launch, reference
from tests.support import decode_graph
from tests.support.decode_graph import commits, dispatches, per_layer, record, strided

PUBLISHED = {"20b": (24, 32, 8), "120b": (36, 128, 10)}  # layers, experts, and the most commits a token may take


def config(model):
    layers, experts, _ = PUBLISHED[model]
    return decode_graph.with_layers(
        ModelConfig(num_hidden_layers=0, num_local_experts=experts), decode_graph.alternating(layers)
    )


@pytest.mark.parametrize("dense", ["q8", "bf16"])
@pytest.mark.parametrize("model", PUBLISHED)
def test_a_layer_is_six_dispatches_or_seven(model, dense):
    short, most, long = (per_layer(config(model), dense, length) for length in (100, 1023, 1024))
    assert short.total() == 12, "a sliding and a full layer"
    assert most == short
    assert long - short == {"decode_attention_combine": 1}
    assert set(short) == {
        "norm_qkv_rope",
        "decode_attention",
        "output_residual",
        "norm_router",
        "expert_gate_up",
        "expert_down_residual",
    }


@pytest.mark.parametrize("model", PUBLISHED)
def test_a_token_takes_few_commits(model):
    for dense in ("q8", "bf16"):
        nodes = record(config(model), dense, 1024)
        for limits in decode_graph.LIMITS.values():
            assert commits(nodes, limits) <= PUBLISHED[model][2]


def test_with_a_buffer_for_each_tensor_commits_would_be_many(monkeypatch):
    """This is why a layer has two buffers. The simulation sees the difference."""
    nodes = record(config("20b"), "q8", 1024)
    monkeypatch.setattr(decode_graph, "VIEWS", decode_graph.VIEWS - {"View"})  # so that each view counts as a buffer
    assert commits(nodes, (40, 40)) > 40


@pytest.mark.parametrize("model", PUBLISHED)
def test_a_step_with_paged_experts_is_the_same_dispatches_and_waits_once_at_its_end(model):
    """All that the host reads back is made by the one recording: the draw, and the router logits of every layer. A
    design that asked each layer would wait as often as there are layers, and a step that waits cannot be traced."""
    layers, experts, most = PUBLISHED[model]
    whole = record(config(model), "q8", 1024)
    paged = record(config(model), "q8", 1024, slots=experts // 2)
    assert dispatches(paged) == dispatches(whole)
    for limits in decode_graph.LIMITS.values():
        assert commits(paged, limits) <= most
    routed = [node.outputs[1][0] for node in paged if node.shader == "norm_router"]
    assert len(routed) == layers
    assert paged[-1].shader == "norm_head_argmax_combine"


def test_the_embedding_is_read_on_the_cpu(monkeypatch):
    """The GPU would keep the whole table in memory."""
    streams = []
    real = mx.stream
    embed = reference.embed
    inside = []

    @contextmanager
    def stream(of):
        streams.append(of)
        with real(of):
            yield
        streams.pop()

    def seen(tokens, table):
        inside.append(list(streams))
        return embed(tokens, table)

    monkeypatch.setattr(mx, "stream", stream)
    monkeypatch.setattr(reference, "embed", seen)
    record(config("20b"), "q8", 1024)
    assert inside == [[mx.cpu]]


def test_no_shader_is_given_what_has_to_be_copied_first():
    nodes = record(config("20b"), "q8", 1024)
    assert strided(nodes) == []


def test_a_layout_that_would_be_copied_is_noticed(monkeypatch):
    real = launch.norm_router

    def transposed(x, *rest):
        normed, logits = real(x, *rest)
        return normed, logits.T.reshape(logits.shape[::-1]).T

    monkeypatch.setattr(launch, "norm_router", transposed)
    assert set(strided(record(config("20b"), "q8", 1024))) == {"expert_gate_up", "expert_down_residual"}


def test_plain_mlx_in_a_step_is_not_counted_but_refused(monkeypatch):
    monkeypatch.setattr(launch, "norm_router", reference.norm_router)
    with pytest.raises(AssertionError, match="plain MLX"):
        record(config("20b"), "q8", 1024)


def test_an_operation_whose_launches_are_unknown_is_not_counted_but_refused(monkeypatch):
    real = launch.output_residual
    monkeypatch.setattr(launch, "output_residual", lambda *given: mx.tan(real(*given)))
    nodes = record(config("20b"), "q8", 1024)
    with pytest.raises(KeyError, match="Tan"):
        dispatches(nodes)
