"""From a checkpoint's tensors to a `Model`, each weight in the form in which it runs fastest."""

from __future__ import annotations

from pathlib import Path

import torch

from serving.runtime.embedded import mxfp4
from serving.runtime.embedded.attention import causal_mask, geometry, sink_columns
from serving.runtime.embedded.checkpoint import ModelConfig, Tensors, open_tensors, read_config
from serving.runtime.embedded.experts import Experts, GroupedBank, LoopedBank, SwiGlu
from serving.runtime.embedded.linear import Linear, packs
from serving.runtime.embedded.model import Layer, Model, norm
from serving.runtime.embedded.rope import Rotary, pair_rows

# A layer's experts are held a second time, in one piece, when they are smaller than this.
MOST_JOINT_BYTES = 8 << 20


def load_model(
    directory: Path, *, block_tokens: int, dtype: torch.dtype, device: torch.device
) -> Model:
    """Returns the model of a checkpoint directory. Raises CheckpointError."""
    config = read_config(directory)
    with torch.inference_mode():
        # The embedding is taken through a mapping of its own: a shared one would stay with it, and
        # with it in memory every page that the loading of the others has read.
        with open_tensors(directory) as tensors:
            shape = (config.vocab_size, config.hidden_size)
            embedding = tensors("model.embed_tokens.weight", shape).to(device, dtype)
        with open_tensors(directory) as tensors:
            return Loader(config, tensors, block_tokens, dtype, device).model(embedding)


class Loader:
    """Makes a model of a checkpoint's tensors, in one dtype on one device."""

    def __init__(
        self,
        config: ModelConfig,
        tensors: Tensors,
        block_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._config = config
        self._tensors = tensors
        self._sizes = geometry(config, block_tokens)
        self._dtype = dtype
        self._device = device
        self._packed = packs(device, dtype)

    def model(self, embedding: torch.Tensor) -> Model:
        """Returns the model. Raises CheckpointError for a tensor that is missing or misshapen."""
        config, sizes = self._config, self._sizes
        hidden = (config.hidden_size,)
        return Model(
            config=config,
            sizes=sizes,
            embedding=embedding,
            layers=tuple(self._layer(index) for index in range(config.num_layers)),
            final_norm=norm(
                self._tensors("model.norm.weight", hidden), config.rms_norm_eps, self._device
            ),
            head=Linear(
                self._take("lm_head.weight", config.vocab_size, *hidden), None, packed=self._packed
            ),
            rotary=Rotary(config.rope, config.head_dim, self._device),
            causal=causal_mask(sizes, self._dtype, self._device).view(1, sizes.tile_rows, 1, -1),
            dtype=self._dtype,
            device=self._device,
        )

    def _take(self, name: str, *shape: int) -> torch.Tensor:
        """The tensor in the model's dtype: still the file's memory when it is so there."""
        return self._tensors(name, shape).to(self._device, self._dtype)

    def _keep(self, name: str, *shape: int) -> torch.Tensor:
        """A small tensor, copied, so that it does not hold the file's memory."""
        return self._take(name, *shape).clone()

    def _layer(self, index: int) -> Layer:
        config, prefix = self._config, f"model.layers.{index}."
        attention = prefix + "self_attn."
        width = config.num_heads * config.head_dim
        hidden = (config.hidden_size,)
        eps = config.rms_norm_eps
        return Layer(
            sliding=config.sliding[index],
            attention_norm=norm(
                self._tensors(prefix + "input_layernorm.weight", hidden), eps, self._device
            ),
            qkv=self._qkv(attention),
            out=Linear(
                self._take(attention + "o_proj.weight", config.hidden_size, width),
                self._keep(attention + "o_proj.bias", config.hidden_size),
                packed=self._packed,
            ),
            sink=sink_columns(self._keep(attention + "sinks", config.num_heads), self._sizes),
            experts_norm=norm(
                self._tensors(prefix + "post_attention_layernorm.weight", hidden),
                eps,
                self._device,
            ),
            experts=self._experts(prefix + "mlp."),
        )

    def _qkv(self, prefix: str) -> Linear:
        """One projection; queries come out scaled by 1 / sqrt(head_dim), pairs side by side."""
        config = self._config
        scale = config.head_dim**-0.5
        parts: dict[str, list[torch.Tensor]] = {"weight": [], "bias": []}
        for name, heads in (
            ("q", config.num_heads),
            ("k", config.num_kv_heads),
            ("v", config.num_kv_heads),
        ):
            for kind, width in (("weight", (config.hidden_size,)), ("bias", ())):
                shape = (heads * config.head_dim, *width)
                part = self._tensors(f"{prefix}{name}_proj.{kind}", shape).to(self._device)
                part = part if name == "v" else pair_rows(part, config.head_dim)
                part = part.to(torch.float32) * scale if name == "q" else part
                parts[kind].append(part.to(self._dtype))
        weight, bias = (torch.cat(parts[kind]) for kind in ("weight", "bias"))
        return Linear(weight, bias, packed=self._packed)

    def _experts(self, prefix: str) -> Experts:
        config = self._config
        count, hidden = config.num_experts, config.hidden_size
        return Experts(
            router=Linear(
                self._keep(prefix + "router.weight", count, hidden),
                self._keep(prefix + "router.bias", count),
                packed=self._packed,
            ),
            per_token=config.experts_per_token,
            bank=self._bank(prefix + "experts."),
        )

    def _bank(self, prefix: str) -> LoopedBank | GroupedBank:
        config = self._config
        count, hidden, inner = config.num_experts, config.hidden_size, config.intermediate_size
        activation = SwiGlu(config.swiglu_alpha, config.swiglu_limit)
        gate_up = _gates_first(self._stacked(prefix + "gate_up_proj", count, 2 * inner, hidden))
        gate_up_bias = _gates_first(self._keep(prefix + "gate_up_proj_bias", count, 2 * inner))
        down = self._stacked(prefix + "down_proj", count, hidden, inner)
        down_bias = self._keep(prefix + "down_proj_bias", count, hidden)
        if self._device.type == "cuda":
            return GroupedBank(gate_up, gate_up_bias, down, down_bias, activation)
        joint = None
        if gate_up.nbytes <= MOST_JOINT_BYTES:
            joint = Linear(gate_up.flatten(0, 1), gate_up_bias.flatten(), packed=self._packed)
        return LoopedBank(
            self._separate(gate_up, gate_up_bias),
            self._separate(down, down_bias),
            activation,
            joint,
        )

    def _separate(self, weights: torch.Tensor, biases: torch.Tensor) -> tuple[Linear, ...]:
        return tuple(
            Linear(weight, bias, packed=self._packed)
            for weight, bias in zip(weights, biases, strict=True)
        )

    def _stacked(self, name: str, count: int, rows: int, columns: int) -> torch.Tensor:
        """(experts, out, in), from MXFP4 or from the transposed plain layout."""
        if name + "_blocks" not in self._tensors:
            return self._take(name, count, columns, rows).mT.contiguous()
        blocks = columns // mxfp4.BLOCK_VALUES
        packed = self._tensors(name + "_blocks", (count, rows, blocks, mxfp4.BLOCK_VALUES // 2))
        scales = self._tensors(name + "_scales", (count, rows, blocks))
        return mxfp4.dequantise(packed, scales, self._dtype).to(self._device)


def _gates_first(tensor: torch.Tensor) -> torch.Tensor:
    """(experts, 2 * inner, ...) with gates and ups interleaved, as checkpoints have them."""
    return torch.cat((tensor[:, ::2], tensor[:, 1::2]), dim=1)
