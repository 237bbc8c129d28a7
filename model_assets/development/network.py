"""The GPT-OSS network for training: no cache, whole rows at once, a compact vocabulary.

The arithmetic is that of openai/gpt-oss `torch/model.py` and of Hugging Face's GptOssForCausalLM.
What differs is the vocabulary: `rows` ids have rows of their own and one further row stands for
all other ids. See `loss`.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model_assets.development.shape import Shape

BLOCK = 128
ROWS_STEP = 128
"""Rows are padded to a multiple: a CPU's matrix library compiles code for every new shape."""
LEAST_EXPONENT = -40.0
"""What is masked out gets e^-40: torch's e^x is many times slower where it underflows."""
HEAD_SHARE = 0.1
LARGEST_E2M1 = 6.0


def rope_tables(shape: Shape, length: int) -> tuple[Tensor, Tensor]:
    """Returns the cosines and sines [length, head_dim / 2] of YaRN (arXiv 2309.00071).

    As in GPT-OSS the ramp's bounds are not rounded and the attention factor 0.1 ln(factor) + 1
    is multiplied into both tables.
    """
    half = shape.head_dim // 2
    frequency = shape.rope_theta ** (torch.arange(half, dtype=torch.float64) / half)

    def dimension(rotations: float) -> float:
        wavelengths = shape.initial_context_length / (rotations * 2 * math.pi)
        return half * math.log(wavelengths) / math.log(shape.rope_theta)

    low = max(dimension(shape.rope_beta_fast), 0.0)
    high = min(dimension(shape.rope_beta_slow), half - 1.0)
    ramp = ((torch.arange(half, dtype=torch.float64) - low) / (high - low)).clamp(0, 1)
    inverse = (1 - ramp) / frequency + ramp / (shape.rope_factor * frequency)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * inverse
    concentration = 0.1 * math.log(shape.rope_factor) + 1.0
    return (angle.cos() * concentration).float(), (angle.sin() * concentration).float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Returns x [B, heads, T, D] with its two halves rotated by the tables [B, 1, T, D / 2]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def fake_mxfp4(weight: Tensor) -> Tensor:
    """Returns the weight [..., n * 32] rounded to MXFP4, with the gradient of the identity.

    Blocks of 32 along the last axis share a power of two: 2 ** (floor(log2(max)) - 2), as in the
    OCP Microscaling specification 1.0, section 6.3.
    """
    blocks = weight.detach().reshape(*weight.shape[:-1], -1, 32)
    largest = blocks.abs().amax(-1, keepdim=True).clamp(min=2.0**-100)
    scale = torch.exp2(torch.floor(torch.log2(largest)) - 2)
    sizes = (blocks / scale).abs()
    step = torch.where(sizes < 2, 0.5, torch.where(sizes < 4, 1.0, 2.0))
    nearest = ((sizes / step - 0.5).ceil_() * step).clamp_(max=LARGEST_E2M1)
    rounded = (nearest.copysign_(blocks) * scale).flatten(-2)
    straight: Tensor = weight + (rounded - weight).detach()
    return straight


class SinkAttention(torch.autograd.Function):
    """softmax over the keys and one learned sink a head; the sink's share is thrown away.

    Matrix products are in bfloat16, the softmax is in float32. Queries go in blocks of `BLOCK`,
    and a block leaves out the keys after its last query: about half of the square is never made.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, mask: Tensor) -> Tensor:
        """Returns [B, heads, T, D] for q, k, v of that shape and mask [B, 1, T, T] of 0 / -inf."""
        q, k, v = (q * q.shape[-1] ** -0.5).bfloat16(), k.bfloat16(), v.bfloat16()
        sink = sinks.view(1, -1, 1, 1)
        shares, outs, sink_shares = [], [], []
        for start in range(0, q.shape[2], BLOCK):
            end = min(start + BLOCK, q.shape[2])
            scores = torch.matmul(q[:, :, start:end], k[:, :, :end].transpose(-1, -2)).float()
            scores.add_(mask[:, :, start:end, :end])
            largest = torch.maximum(scores.amax(-1, keepdim=True), sink)
            scores.sub_(largest).clamp_(min=LEAST_EXPONENT).exp_()
            sink_share = (sink - largest).exp_()
            total = scores.sum(-1, keepdim=True).add_(sink_share)
            share = scores.div_(total).bfloat16()
            shares.append(share)
            sink_shares.append(sink_share.div_(total))
            outs.append(torch.matmul(share, v[:, :, :end]))
        out = torch.cat(outs, dim=2)
        ctx.save_for_backward(q, k, v, out, torch.cat(sink_shares, dim=2), *shares)
        return out.float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of q, k, v and the sinks."""
        q, k, v, out, sink_share, *shares = ctx.saved_tensors
        delta = (gradients[0] * out).sum(-1, keepdim=True)
        grad = gradients[0].bfloat16()
        grad_q = torch.empty(q.shape)
        grad_k, grad_v = torch.zeros(k.shape), torch.zeros(v.shape)
        for index, share in enumerate(shares):
            end = share.shape[-1]
            rows = slice(index * BLOCK, end)
            grad_v[:, :, :end] += torch.matmul(share.transpose(-1, -2), grad[:, :, rows])
            scores = torch.matmul(grad[:, :, rows], v[:, :, :end].transpose(-1, -2))
            scores.sub_(delta[:, :, rows]).mul_(share)
            grad_q[:, :, rows] = torch.matmul(scores, k[:, :, :end])
            grad_k[:, :, :end] += torch.matmul(scores.transpose(-1, -2), q[:, :, rows])
        grad_q.mul_(q.shape[-1] ** -0.5)
        return grad_q, grad_k, grad_v, -(sink_share * delta).sum((0, 2, 3)), None


def attend(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, mask: Tensor) -> Tensor:
    """Returns what `SinkAttention` does, for any number of queries and without gradients."""
    scores = torch.matmul(q.bfloat16(), k.bfloat16().transpose(-1, -2)).float()
    scores = scores * q.shape[-1] ** -0.5 + mask
    sink = sinks.view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
    shares = torch.cat((scores, sink), dim=-1).softmax(-1)[..., :-1]
    return torch.matmul(shares.bfloat16(), v.bfloat16()).float()


class Past(msgspec.Struct):
    """What a network keeps of the tokens that it has seen: keys and values of every layer."""

    positions: Tensor
    """[B, T]."""
    layers: list[tuple[Tensor, Tensor]]

    def extend(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Adds keys and values of a layer [B, heads, T, D] and returns all of them."""
        if layer == len(self.layers):
            self.layers.append((k, v))
        else:
            old_k, old_v = self.layers[layer]
            self.layers[layer] = (torch.cat((old_k, k), dim=2), torch.cat((old_v, v), dim=2))
        return self.layers[layer]


class Attention(nn.Module):
    """Grouped-query attention with biases, rope and sinks."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        self.shape, self.layer = shape, layer
        width = shape.num_attention_heads * shape.head_dim
        kv_width = shape.num_key_value_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, width)
        self.k_proj = nn.Linear(shape.hidden_size, kv_width)
        self.v_proj = nn.Linear(shape.hidden_size, kv_width)
        self.o_proj = nn.Linear(width, shape.hidden_size)
        self.sinks = nn.Parameter(torch.zeros(shape.num_attention_heads))

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor, past: Past | None
    ) -> Tensor:
        """Returns [B, T, hidden] for x of that shape, before the residual."""
        rows, length, _ = x.shape
        group = self.shape.num_attention_heads // self.shape.num_key_value_heads

        def heads(projected: Tensor) -> Tensor:
            return projected.view(rows, length, -1, self.shape.head_dim).transpose(1, 2)

        q = rotate(heads(self.q_proj(x)), *rope)
        k = rotate(heads(self.k_proj(x)), *rope).repeat_interleave(group, dim=1)
        v = heads(self.v_proj(x)).repeat_interleave(group, dim=1)
        if past is None:
            out: Tensor = SinkAttention.apply(q, k, v, self.sinks, mask)  # type: ignore[no-untyped-call]
        else:
            k, v = past.extend(self.layer, k, v)
            out = attend(q, k, v, self.sinks, mask)
        projected: Tensor = self.o_proj(out.transpose(1, 2).reshape(rows, length, -1))
        return projected


class Experts(nn.Module):
    """The router and its experts. Expert weights lie as [expert, in, out]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        count, hidden, inner = (
            shape.num_local_experts,
            shape.hidden_size,
            shape.intermediate_size,
        )
        self.router = nn.Linear(hidden, count)
        self.gate_up_proj = nn.Parameter(torch.randn(count, hidden, 2 * inner) * hidden**-0.5)
        self.gate_up_proj_bias = nn.Parameter(torch.zeros(count, 2 * inner))
        self.down_proj = nn.Parameter(torch.randn(count, inner, hidden) * inner**-0.5 * 0.15)
        self.down_proj_bias = nn.Parameter(torch.zeros(count, hidden))
        self.quantised = False

    def weights(self) -> tuple[Tensor, Tensor]:
        """Returns gate_up [E, in, out] and down [E, in, out], rounded to MXFP4 if so asked."""
        if not self.quantised:
            return self.gate_up_proj, self.down_proj
        gate_up = fake_mxfp4(self.gate_up_proj.transpose(1, 2)).transpose(1, 2)
        return gate_up, fake_mxfp4(self.down_proj.transpose(1, 2)).transpose(1, 2)

    def activate(self, gate_up: Tensor) -> Tensor:
        """Returns the clamped SwiGLU [N, inner] of interleaved gate and up values."""
        gate, up = gate_up.view(-1, self.shape.intermediate_size, 2).unbind(-1)
        gate = gate.clamp(max=self.shape.swiglu_limit)
        up = up.clamp(-self.shape.swiglu_limit, self.shape.swiglu_limit)
        return (up + 1) * gate * torch.sigmoid(1.702 * gate)

    def forward(self, x: Tensor) -> Tensor:
        """Returns [N, hidden] for x [N, hidden]: the weighted sum of the chosen experts."""
        with torch.autocast("cpu", enabled=False):
            chosen = self.router(x).topk(self.shape.num_experts_per_tok, dim=-1)
        share = chosen.values.softmax(-1)
        expert = chosen.indices.reshape(-1)
        order = expert.argsort(stable=True)
        counts = torch.bincount(expert, minlength=self.shape.num_local_experts).tolist()
        gate_up, down = self.weights()
        mixed = torch.zeros_like(x)
        for i, slots in enumerate(order.split(counts)):
            padded = F.pad(slots, (0, -len(slots) % ROWS_STEP))
            token = padded // self.shape.num_experts_per_tok
            inner = torch.addmm(self.gate_up_proj_bias[i], x[token], gate_up[i])
            outer = torch.addmm(self.down_proj_bias[i], self.activate(inner), down[i])
            weight = share.reshape(-1)[slots].unsqueeze(-1)
            mixed.index_add_(0, token[: len(slots)], outer[: len(slots)] * weight)
        return mixed


class Block(nn.Module):
    """One layer: attention, then experts, each behind a norm and added to the stream."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.self_attn = Attention(shape, layer)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.mlp = Experts(shape)

    def forward(
        self, x: Tensor, rope: tuple[Tensor, Tensor], mask: Tensor, past: Past | None
    ) -> Tensor:
        """Returns the stream [B, T, hidden] after this layer."""
        x = x + self.self_attn(self.input_layernorm(x), rope, mask, past)
        mixed: Tensor = self.mlp(self.post_attention_layernorm(x).flatten(0, 1))
        return x + mixed.view_as(x)


class Network(nn.Module):
    """The whole network over `rows + 1` vocabulary rows; the last stands for all other ids."""

    def __init__(self, shape: Shape, rows: int, length: int = 2048) -> None:
        """Draws the first weights from torch's generator.

        The LM head begins as a small copy of the embeddings: what is looked at can be said.
        """
        super().__init__()
        self.shape = shape
        self.rows = rows
        self.embed_tokens = nn.Embedding(rows + 1, shape.hidden_size)
        self.layers = nn.ModuleList(Block(shape, layer) for layer in range(shape.num_hidden_layers))
        self.norm = nn.RMSNorm(shape.hidden_size, shape.rms_norm_eps)
        self.lm_head = nn.Linear(shape.hidden_size, rows + 1, bias=False)
        nn.init.normal_(self.embed_tokens.weight, std=0.5)
        with torch.no_grad():
            self.lm_head.weight.copy_(HEAD_SHARE * self.embed_tokens.weight)
        cos, sin = rope_tables(shape, length)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def quantise(self, on: bool) -> None:
        """Switches the rounding of the experts to MXFP4 on or off."""
        for block in self.layers:
            block.mlp.quantised = on  # type: ignore[union-attr]

    def forward(
        self, tokens: Tensor, positions: Tensor, visible: Tensor, past: Past | None = None
    ) -> Tensor:
        """Returns the last hidden states [B, T, hidden].

        tokens and positions are [B, T]; visible [B, T, keys] says which key each query may see
        without a window. The window is by position. The keys are those of the tokens, after those
        in `past`, which then holds both.
        """
        cos, sin = self.get_buffer("cos"), self.get_buffer("sin")
        rope = (cos[positions].unsqueeze(1), sin[positions].unsqueeze(1))
        keys = positions
        if past is not None:
            keys = past.positions = torch.cat((past.positions, positions), dim=1)
        distance = positions[:, :, None] - keys[:, None, :]
        near = visible & (distance < self.shape.sliding_window)
        masks = [
            torch.zeros(seen.shape).masked_fill(~seen, -math.inf).unsqueeze(1)
            for seen in (near, visible)
        ]
        x = self.embed_tokens(tokens)
        for index, block in enumerate(self.layers):
            x = block(x, rope, masks[index % 2], past)
        hidden: Tensor = self.norm(x)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Returns [N, rows + 1] for hidden [N, hidden]; the last column counts for all other ids.

        Every other id has the same logit z, so together they weigh exp(z) * (vocabulary - rows):
        adding log(vocabulary - rows) makes a softmax over rows + 1 columns equal to the softmax
        over the whole vocabulary.
        """
        raw: Tensor = self.lm_head(hidden)
        others = math.log(self.shape.vocab_size - self.rows)
        return raw + F.pad(torch.full((1,), others), (self.rows, 0))
