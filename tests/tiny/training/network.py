"""A minimal gpt-oss in PyTorch, to train the small model on a CPU.

Parameters have the published names. Experts are rounded to MXFP4 on every step (straight-through gradient), so the
trained weights are those that are stored. Many conversations share one system and developer message. It is computed
once per group, and the conversations attend to it.

G groups, C conversations a group, P prefix tokens, N tokens a conversation, H hidden, E experts, K experts per token.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CODES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def mxfp4(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Round ``weights`` to MXFP4 in blocks of 32 along the last axis; return (value / scale, exponent of scale).

    The scale is the power of two that puts the block's largest value in (3.5, 7], where 6 is the largest code.
    """
    blocks = weights.detach().float().unflatten(-1, (-1, 32))
    largest = blocks.abs().amax(-1, keepdim=True).clamp(min=2.0**-100)
    exponent = torch.ceil(torch.log2(largest / 7.0))
    scaled = blocks * torch.exp2(-exponent)
    size = scaled.abs()
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    return (torch.round(size / step) * step).clamp(max=6.0) * torch.sign(scaled), exponent


def through_mxfp4(weights: Tensor) -> Tensor:
    """Return ``weights`` rounded to MXFP4. The gradient passes through unchanged."""
    codes, exponent = mxfp4(weights)
    return weights + ((codes * torch.exp2(exponent)).flatten(-2) - weights.detach())


def inverse_frequencies(config: dict[str, Any]) -> tuple[Tensor, float]:
    """Return [D/2] inverse frequencies of YaRN without truncation, and the factor on cos and sin."""
    scaling = config["rope_scaling"]
    dim = config["head_dim"]
    theta = config["rope_theta"]
    turns = [
        scaling["original_max_position_embeddings"] / (scaling[k] * 2 * math.pi) for k in ("beta_fast", "beta_slow")
    ]
    low, high = (dim * math.log(t) / (2 * math.log(theta)) for t in turns)
    index = torch.arange(dim // 2, dtype=torch.float32)
    ramp = ((index - low) / (high - low)).clamp(0, 1)
    plain = theta ** (-2 * index / dim)
    return plain / scaling["factor"] * ramp + plain * (1 - ramp), 0.1 * math.log(scaling["factor"]) + 1.0


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def sink_softmax(scores: Tensor, mask: Tensor, sinks: Tensor) -> Tensor:
    """Return the softmax of scores [B,KV,R,N,T] with mask [B,1,1,N,T] and a sink logit per head, without the sink."""
    scores = scores.float() + mask
    top = torch.maximum(scores.amax(-1, keepdim=True), sinks)
    weights = torch.exp(scores - top)
    return (weights / (weights.sum(-1, keepdim=True) + torch.exp(sinks - top))).to(KEPT)


def weighted_swiglu(gate_up: Tensor, bias: Tensor, weights: Tensor, limit: float) -> Tensor:
    """Return the clamped SwiGLU of [M,E,2,I], gates before ups, times each expert's weight [M,E], as [M,E,I]."""
    gate, up = (gate_up.float() + bias).unbind(-2)
    gate = gate.clamp(max=limit)
    return (gate * torch.sigmoid(1.702 * gate) * (up.clamp(-limit, limit) + 1) * weights[..., None]).to(KEPT)


class Experts(nn.Module):
    def __init__(self, c: dict[str, Any]):
        super().__init__()
        experts = c["num_local_experts"]
        hidden = c["hidden_size"]
        inter = c["intermediate_size"]
        self.gate_up_proj = nn.Parameter(torch.randn(experts, 2 * inter, hidden) * hidden**-0.5)
        self.gate_up_proj_bias = nn.Parameter(torch.zeros(experts, 2 * inter))
        self.down_proj = nn.Parameter(torch.randn(experts, hidden, inter) * inter**-0.5 * 0.3)
        self.down_proj_bias = nn.Parameter(torch.zeros(experts, hidden))
        self.limit = c["swiglu_limit"]

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum of all experts for x [M,H], weights [M,E]; gathering would be slower at this size."""
        gate_up = through_mxfp4(self.gate_up_proj)
        down = through_mxfp4(self.down_proj)
        # Rows are stored interleaved: gate, up, gate, ... Separate halves are faster here.
        gate_up = gate_up.unflatten(1, (-1, 2)).transpose(1, 2)
        bias = self.gate_up_proj_bias.unflatten(1, (-1, 2)).transpose(1, 2)
        inner = F.linear(x, gate_up.flatten(0, 2).to(x.dtype)).unflatten(-1, bias.shape)
        inner = FUSED_SWIGLU(inner, bias, weights, self.limit)
        out = F.linear(inner.flatten(1).to(x.dtype), down.transpose(0, 1).flatten(1).to(x.dtype))
        return out.float() + weights @ self.down_proj_bias


class Mlp(nn.Module):
    def __init__(self, c: dict[str, Any]):
        super().__init__()
        self.router = nn.Linear(c["hidden_size"], c["num_local_experts"])
        self.experts = Experts(c)
        self.active = c["num_experts_per_tok"]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the experts' output for x [M,H] f32, and the loss that keeps experts evenly used."""
        logits = self.router(x)
        top, chosen = logits.topk(self.active, -1)
        weights = torch.zeros_like(logits).scatter(-1, chosen, top.softmax(-1))
        share = (weights > 0).float().mean(0) / self.active
        uneven = logits.shape[-1] * (share * logits.softmax(-1).mean(0)).sum()
        return self.experts(x.to(COMPUTE), weights), uneven


class Attention(nn.Module):
    def __init__(self, c: dict[str, Any], layer: int):
        super().__init__()
        self.heads = c["num_attention_heads"]
        self.kv = c["num_key_value_heads"]
        self.dim = c["head_dim"]
        hidden = c["hidden_size"]
        self.q_proj = nn.Linear(hidden, self.heads * self.dim)
        self.k_proj = nn.Linear(hidden, self.kv * self.dim)
        self.v_proj = nn.Linear(hidden, self.kv * self.dim)
        self.o_proj = nn.Linear(self.heads * self.dim, hidden)
        self.sinks = nn.Parameter(torch.zeros(self.heads))
        self.sliding = c["layer_types"][layer] == "sliding_attention"

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q [B,KV,R,N,D], k and v [B,KV,N,D] for x [B,N,H], cos and sin [B,N,D/2]."""
        weight = torch.cat([self.q_proj.weight, self.k_proj.weight, self.v_proj.weight]).to(x.dtype)
        bias = torch.cat([self.q_proj.bias, self.k_proj.bias, self.v_proj.bias]).to(x.dtype)
        heads = F.linear(x, weight, bias).unflatten(-1, (-1, self.dim)).transpose(1, 2)
        turned = rotate(heads[:, : self.heads + self.kv], cos[:, None], sin[:, None])
        q = turned[:, : self.heads].unflatten(1, (self.kv, -1)) * self.dim**-0.5
        return q, turned[:, self.heads :], heads[:, self.heads + self.kv :]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
        """Return [B,N,heads*D] for q [B,KV,R,N,D], k and v [B,KV,T,D], mask [B,1,1,N,T]."""
        scores = (q.flatten(2, 3) @ k.transpose(-1, -2)).unflatten(2, q.shape[2:4])
        weights = FUSED_SOFTMAX(scores, mask, self.sinks.view(1, self.kv, -1, 1, 1))
        out = (weights.to(v.dtype).flatten(2, 3) @ v).unflatten(2, q.shape[2:4])
        return out.permute(0, 3, 1, 2, 4).flatten(2)

    def output(self, x: Tensor) -> Tensor:
        return F.linear(x, self.o_proj.weight.to(x.dtype), self.o_proj.bias.to(x.dtype)).float()


class Norm(nn.Module):
    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Layer(nn.Module):
    def __init__(self, c: dict[str, Any], layer: int):
        super().__init__()
        self.input_layernorm = Norm(c["hidden_size"], c["rms_norm_eps"])
        self.self_attn = Attention(c, layer)
        self.post_attention_layernorm = Norm(c["hidden_size"], c["rms_norm_eps"])
        self.mlp = Mlp(c)


class Body(nn.Module):
    def __init__(self, c: dict[str, Any]):
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c, i) for i in range(c["num_hidden_layers"]))
        self.norm = Norm(c["hidden_size"], c["rms_norm_eps"])


def visible(query: Tensor, key: Tensor, key_exists: Tensor, window: int | None) -> Tensor:
    """Return an additive mask [B,1,1,N,T] for positions [B,N] and [B,T]."""
    distance = query[:, :, None] - key[:, None, :]
    seen = (distance >= 0) & key_exists[:, None, :]
    if window is not None:
        seen &= distance < window
    return torch.zeros(seen.shape).masked_fill(~seen, -1e30)[:, None, None]


class Network(nn.Module):
    def __init__(self, config: dict[str, Any]):
        super().__init__()
        self.config = config
        self.model = Body(config)
        self.lm_head = nn.Linear(config["hidden_size"], config["vocab_size"], bias=False)
        nn.init.normal_(self.model.embed_tokens.weight, std=0.5)
        nn.init.normal_(self.lm_head.weight, std=0.02)
        for name, p in self.named_parameters():
            if name.endswith("proj.weight"):
                nn.init.normal_(p, std=p.shape[1] ** -0.5 * (0.3 if "o_proj" in name else 1.0))
            elif name.endswith(("proj.bias", "router.bias")):
                nn.init.zeros_(p)

    def forward(self, prefix: Tensor, prefix_length: Tensor, ids: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [M,V] at the ``wanted`` positions, and the mean unevenness of the routers.

        prefix [G,P] right-padded, prefix_length [G]; ids [G,C,N] right-padded; wanted [G,C,N] bool.
        """
        config = self.config
        body = self.model
        groups, each, length = ids.shape
        inverse, factor = inverse_frequencies(config)
        shared = prefix.shape[1]
        position_p = torch.arange(shared).expand(groups, shared)
        exists_p = position_p < prefix_length[:, None]
        position_c = prefix_length[:, None, None] + torch.arange(length).expand(groups, each, length)
        position_c = position_c.flatten(0, 1)
        position_t = torch.cat([position_p.repeat_interleave(each, 0), position_c], 1)
        exists_t = torch.cat([exists_p.repeat_interleave(each, 0), torch.ones_like(position_c, dtype=torch.bool)], 1)

        def turns(position: Tensor) -> tuple[Tensor, Tensor]:
            angle = position[..., None].float() * inverse
            return (angle.cos() * factor).to(COMPUTE), (angle.sin() * factor).to(COMPUTE)

        turns_p = turns(position_p)
        turns_c = turns(position_c)
        masks = {}
        for sliding in (True, False):
            window = config["sliding_window"] if sliding else None
            masks[sliding] = (
                visible(position_p, position_p, exists_p, window),
                visible(position_c, position_t, exists_t, window),
            )
        x_p = body.embed_tokens(prefix)
        x_c = body.embed_tokens(ids.flatten(0, 1))
        uneven = []
        for layer in body.layers:
            last = layer is body.layers[-1]
            attention = layer.self_attn
            mask_p, mask_c = masks[attention.sliding]
            q_p, k_p, v_p = attention.project(layer.input_layernorm(x_p).to(COMPUTE), *turns_p)
            q_c, k_c, v_c = attention.project(layer.input_layernorm(x_c).to(COMPUTE), *turns_c)
            k_t = torch.cat([k_p.repeat_interleave(each, 0), k_c], 2)
            v_t = torch.cat([v_p.repeat_interleave(each, 0), v_c], 2)
            attended = attention.attend(q_c, k_t, v_t, mask_c)
            if last:  # only the wanted positions are needed
                chosen = wanted.flatten(0, 1)
                x = x_c[chosen] + attention.output(attended[chosen])
            else:
                x_c = x_c + attention.output(attended)
                x_p = x_p + attention.output(attention.attend(q_p, k_p, v_p, mask_p))
                x = torch.cat([x_p.flatten(0, 1), x_c.flatten(0, 1)])
            out, pressure = layer.mlp(layer.post_attention_layernorm(x))
            uneven.append(pressure)
            x = x + out
            if not last:
                x_p = x[: groups * shared].view_as(x_p)
                x_c = x[groups * shared :].view_as(x_c)
        x = body.norm(x).to(COMPUTE)
        return F.linear(x, self.lm_head.weight.to(x.dtype)).float(), torch.stack(uneven).mean()


COMPUTE = KEPT = torch.bfloat16
FUSED_SOFTMAX = sink_softmax
FUSED_SWIGLU = weighted_swiglu
