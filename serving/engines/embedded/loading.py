"""From a checkpoint's tensors to a `Model`, each weight in the form in which it runs fastest."""

from __future__ import annotations

from pathlib import Path

import torch

from serving.engines.embedded.attention import causal_mask, geometry, sink_columns
from serving.engines.embedded.checkpoint import ModelConfig, Tensors, open_tensors, read_config
from serving.engines.embedded.experts import Experts, GroupedBank, LoopedBank, SwiGlu
from serving.engines.embedded.linear import Linear, packs
from serving.engines.embedded.model import Layer, Model, norm
from serving.engines.embedded.rope import Rotary
from serving.engines.embedded.weights import Affine, LayerWeights, Projection, Weights, plain

# A layer's experts are held a second time, in one piece, when they are smaller than this.
MOST_JOINT_BYTES = 8 << 20


def load_model(
    directory: Path, *, block_tokens: int, dtype: torch.dtype, device: torch.device
) -> Model:
    """Returns the model of a checkpoint directory. Raises CheckpointError."""
    config = read_config(directory)
    tensors = open_tensors(directory)
    with torch.inference_mode():
        embedding = Weights(config, tensors, dtype, device).embedding()
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
        self._weights = Weights(config, tensors, dtype, device)
        self._sizes = geometry(config, block_tokens)
        self._dtype = dtype
        self._device = device
        self._packed = packs(device, dtype)

    def model(self, embedding: torch.Tensor) -> Model:
        """Returns the model. Raises CheckpointError for a tensor that is missing or misshapen."""
        config, sizes, weights = self._config, self._sizes, self._weights
        return Model(
            config=config,
            sizes=sizes,
            embedding=embedding,
            layers=tuple(
                self._layer(weights.layer(index), *weights.experts(index))
                for index in range(config.num_layers)
            ),
            final_norm=norm(weights.final_norm(), config.rms_norm_eps, self._device),
            head=Linear(plain(weights.head(), self._dtype), None, packed=self._packed),
            rotary=Rotary(config.rope, config.head_dim, self._device),
            causal=causal_mask(sizes, self._dtype, self._device).view(1, sizes.tile_rows, 1, -1),
            dtype=self._dtype,
            device=self._device,
        )

    def _layer(self, weights: LayerWeights, gate_up: Affine, down: Affine) -> Layer:
        eps = self._config.rms_norm_eps
        return Layer(
            sliding=weights.sliding,
            attention_norm=norm(weights.attention_norm, eps, self._device),
            qkv=self._linear(weights.qkv),
            out=self._linear(weights.out),
            sink=sink_columns(weights.sinks, self._sizes),
            experts_norm=norm(weights.experts_norm, eps, self._device),
            experts=Experts(
                router=self._linear(weights.router),
                per_token=self._config.experts_per_token,
                bank=self._bank(gate_up, down),
            ),
        )

    def _linear(self, part: Affine | Projection) -> Linear:
        return Linear(plain(part.weight, self._dtype), part.bias, packed=self._packed)

    def _bank(self, gate_up: Affine, down: Affine) -> LoopedBank | GroupedBank:
        activation = SwiGlu(self._config.swiglu_alpha, self._config.swiglu_limit)
        if self._device.type == "cuda":
            return GroupedBank(gate_up.weight, gate_up.bias, down.weight, down.bias, activation)
        joint = None
        if gate_up.weight.nbytes <= MOST_JOINT_BYTES:
            joint = self._linear(Affine(gate_up.weight.flatten(0, 1), gate_up.bias.flatten()))
        return LoopedBank(self._separate(gate_up), self._separate(down), activation, joint)

    def _separate(self, affine: Affine) -> tuple[Linear, ...]:
        return tuple(
            self._linear(Affine(weight, bias))
            for weight, bias in zip(affine.weight, affine.bias, strict=True)
        )
