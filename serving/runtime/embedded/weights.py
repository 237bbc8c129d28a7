"""A checkpoint's weights, arranged as the layers take them, whatever then computes with them.

Queries come scaled by 1 / sqrt(head_dim), and queries and keys with rotated pairs side by side;
an expert's gates come before its ups.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from serving.runtime.embedded import mxfp4
from serving.runtime.embedded.checkpoint import ModelConfig, Tensors
from serving.runtime.embedded.rope import pair_rows


@dataclass(frozen=True, slots=True)
class Affine:
    """A matrix (..., out, in) and a bias (..., out)."""

    weight: torch.Tensor
    bias: torch.Tensor


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer. Norms (hidden,) and sinks (heads,) are as the checkpoint has them."""

    sliding: bool
    attention_norm: torch.Tensor
    qkv: Affine
    out: Affine
    sinks: torch.Tensor
    experts_norm: torch.Tensor
    router: Affine
    gate_up: Affine  # of all experts: (experts, 2 * inner, hidden)
    down: Affine


class Weights:
    """Reads the weights of one model in one dtype onto one device.

    Every method raises CheckpointError for a tensor that is missing or misshapen.
    """

    def __init__(
        self, config: ModelConfig, tensors: Tensors, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._config = config
        self._tensors = tensors
        self._dtype = dtype
        self._device = device

    def embedding(self) -> torch.Tensor:
        """Returns (vocab, hidden)."""
        return self._take("model.embed_tokens.weight", self._config.vocab_size, self._hidden)

    def final_norm(self) -> torch.Tensor:
        """Returns (hidden,)."""
        return self._tensors("model.norm.weight", (self._hidden,))

    def head(self) -> torch.Tensor:
        """Returns (vocab, hidden)."""
        return self._take("lm_head.weight", self._config.vocab_size, self._hidden)

    def layer(self, index: int) -> LayerWeights:
        """Returns one layer's."""
        config, prefix, hidden = self._config, f"model.layers.{index}.", self._hidden
        count, inner = config.num_experts, config.intermediate_size
        attention, experts = prefix + "self_attn.", prefix + "mlp.experts."
        gate_up = self._experts(experts + "gate_up_proj", count, 2 * inner, hidden)
        return LayerWeights(
            sliding=config.sliding[index],
            attention_norm=self._tensors(prefix + "input_layernorm.weight", (hidden,)),
            qkv=self._qkv(attention),
            out=self._affine(attention + "o_proj", hidden, config.num_heads * config.head_dim),
            sinks=self._keep(attention + "sinks", config.num_heads),
            experts_norm=self._tensors(prefix + "post_attention_layernorm.weight", (hidden,)),
            router=self._affine(prefix + "mlp.router", count, hidden),
            gate_up=Affine(_gates_first(gate_up.weight), _gates_first(gate_up.bias)),
            down=self._experts(experts + "down_proj", count, hidden, inner),
        )

    @property
    def _hidden(self) -> int:
        return self._config.hidden_size

    def _take(self, name: str, *shape: int) -> torch.Tensor:
        """The tensor in the model's dtype: still the file's memory when it is so there."""
        return self._tensors(name, shape).to(self._device, self._dtype)

    def _keep(self, name: str, *shape: int) -> torch.Tensor:
        """A small tensor, copied, so that it does not hold the file's memory."""
        return self._take(name, *shape).clone()

    def _affine(self, name: str, out: int, width: int) -> Affine:
        return Affine(self._take(name + ".weight", out, width), self._keep(name + ".bias", out))

    def _qkv(self, prefix: str) -> Affine:
        config = self._config
        scale = config.head_dim**-0.5
        parts: dict[str, list[torch.Tensor]] = {"weight": [], "bias": []}
        for name, heads in (
            ("q", config.num_heads),
            ("k", config.num_kv_heads),
            ("v", config.num_kv_heads),
        ):
            for kind, width in (("weight", (self._hidden,)), ("bias", ())):
                shape = (heads * config.head_dim, *width)
                part = self._tensors(f"{prefix}{name}_proj.{kind}", shape).to(self._device)
                part = part if name == "v" else pair_rows(part, config.head_dim)
                part = part.to(torch.float32) * scale if name == "q" else part
                parts[kind].append(part.to(self._dtype))
        return Affine(torch.cat(parts["weight"]), torch.cat(parts["bias"]))

    def _experts(self, name: str, count: int, rows: int, columns: int) -> Affine:
        """All experts' matrices (experts, rows, columns), from MXFP4 or the transposed layout."""
        bias = self._keep(name + "_bias", count, rows)
        if name + "_blocks" not in self._tensors:
            return Affine(self._take(name, count, columns, rows).mT.contiguous(), bias)
        blocks = columns // mxfp4.BLOCK_VALUES
        packed = self._tensors(name + "_blocks", (count, rows, blocks, mxfp4.BLOCK_VALUES // 2))
        scales = self._tensors(name + "_scales", (count, rows, blocks))
        return Affine(mxfp4.dequantise(packed, scales, self._dtype).to(self._device), bias)


def _gates_first(tensor: torch.Tensor) -> torch.Tensor:
    """(experts, 2 * inner, ...) with gates and ups interleaved, as checkpoints have them."""
    return torch.cat((tensor[:, ::2], tensor[:, 1::2]), dim=1)
