"""A checkpoint's weights, arranged as the layers take them, whatever then computes with them.

They are read in every form that a checkpoint of the engine build can have: experts in MXFP4, in FP8
or plain, matrices in INT8 or plain. Those in INT8 stay so: who computes with them has a form of its
own for them, or makes them `plain`.

Queries come scaled by 1 / sqrt(head_dim), and queries and keys with rotated pairs side by side;
an expert's gates come before its ups.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from serving.engines.embedded import fp8, int8, mxfp4
from serving.engines.embedded.checkpoint import CheckpointError, ModelConfig, Tensors
from serving.engines.embedded.rope import pair_rows


@dataclass(frozen=True, slots=True)
class Affine:
    """A matrix (..., out, in) and a bias (..., out)."""

    weight: torch.Tensor
    bias: torch.Tensor


@dataclass(frozen=True, slots=True)
class Int8:
    """A matrix as int8.py has it, codes (out, in) and scales (out,)."""

    codes: torch.Tensor
    scales: torch.Tensor


Matrix = torch.Tensor | Int8
"""(out, in), in the model's dtype or in INT8."""


@dataclass(frozen=True, slots=True)
class Projection:
    """A matrix (out, in) and a bias (out,)."""

    weight: Matrix
    bias: torch.Tensor


@dataclass(frozen=True, slots=True)
class Mxfp4:
    """All experts' matrices as mxfp4.py has them, with their biases (experts, out).

    `blocks` (experts, out, n, 16) and `scales` (experts, out, n) are mappings of the file. With
    `interleaved` their rows are as checkpoints have them, which `gates_first` puts right; biases
    are right already.
    """

    blocks: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor
    interleaved: bool


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer without its experts. Norms (hidden,) and sinks (heads,) are as the
    checkpoint has them."""

    sliding: bool
    attention_norm: torch.Tensor
    qkv: Projection
    out: Projection
    sinks: torch.Tensor
    experts_norm: torch.Tensor
    router: Projection


def plain(matrix: Matrix, dtype: torch.dtype) -> torch.Tensor:
    """Returns a matrix without codes: one in INT8 is multiplied out and rounded to `dtype`."""
    if isinstance(matrix, Int8):
        return int8.dequantise(matrix.codes, matrix.scales).to(dtype)
    return matrix


class Weights:
    """Reads the weights of one model in one dtype onto one device.

    Every method raises CheckpointError for a tensor that is missing, misshapen or of another type.
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

    def head(self) -> Matrix:
        """Returns (vocab, hidden)."""
        return self._matrix("lm_head.weight", self._config.vocab_size, self._hidden)

    def layer(self, index: int) -> LayerWeights:
        """Returns one layer's."""
        config, prefix, hidden = self._config, f"model.layers.{index}.", self._hidden
        attention = prefix + "self_attn."
        return LayerWeights(
            sliding=config.sliding[index],
            attention_norm=self._tensors(prefix + "input_layernorm.weight", (hidden,)),
            qkv=self._qkv(attention),
            out=self._projection(attention + "o_proj", hidden, config.num_heads * config.head_dim),
            sinks=self._keep(attention + "sinks", config.num_heads),
            experts_norm=self._tensors(prefix + "post_attention_layernorm.weight", (hidden,)),
            router=self._projection(prefix + "mlp.router", config.num_experts, hidden),
        )

    def experts(self, index: int) -> tuple[Affine, Affine]:
        """Returns a layer's first matrices (experts, 2 * inner, hidden), and the second."""
        gate_up, down = (self._experts(*shape) for shape in self._expert_shapes(index))
        return Affine(gates_first(gate_up.weight), gates_first(gate_up.bias)), down

    def packed_experts(self, index: int) -> tuple[Mxfp4, Mxfp4] | None:
        """As `experts`, in MXFP4; None where the checkpoint does not have them so."""
        shapes = self._expert_shapes(index)
        if any(name + "_blocks" not in self._tensors for name, *_ in shapes):
            return None
        gate_up, down = (self._packed(*shape) for shape in shapes)
        return replace(gate_up, bias=gates_first(gate_up.bias), interleaved=True), down

    def _expert_shapes(self, index: int) -> tuple[tuple[str, int, int, int], ...]:
        """Returns name, experts, outputs and inputs of a layer's two kinds of matrices."""
        config, prefix = self._config, f"model.layers.{index}.mlp.experts."
        count, inner = config.num_experts, config.intermediate_size
        return (
            (prefix + "gate_up_proj", count, 2 * inner, self._hidden),
            (prefix + "down_proj", count, self._hidden, inner),
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

    def _projection(self, name: str, out: int, width: int) -> Projection:
        return Projection(
            self._matrix(name + ".weight", out, width), self._keep(name + ".bias", out)
        )

    def _matrix(self, name: str, out: int, width: int, scale: float = 1.0) -> Matrix:
        """A matrix times a number, multiplied in float32."""
        if name + "_values" not in self._tensors:
            weight = self._tensors(name, (out, width)).to(self._device)
            return _scaled(weight, scale).to(self._dtype)
        codes = self._typed(name + "_values", torch.int8, out, width)
        if codes.min() < -int8.LARGEST:
            raise CheckpointError(f"{name}_values has codes below -{int8.LARGEST}")
        scales = self._typed(name + "_scales", torch.float32, out)
        return Int8(codes.to(self._device), _scaled(scales, scale).to(self._device))

    def _typed(self, name: str, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        """A tensor as it is stored, which must be in `dtype`."""
        tensor = self._tensors(name, shape)
        if tensor.dtype != dtype:
            raise CheckpointError(f"{name} is of type {tensor.dtype}, not {dtype}")
        return tensor

    def _qkv(self, prefix: str) -> Projection:
        config = self._config
        weights: list[Matrix] = []
        biases: list[torch.Tensor] = []
        for name, heads, scale in (
            ("q", config.num_heads, config.head_dim**-0.5),
            ("k", config.num_kv_heads, 1.0),
            ("v", config.num_kv_heads, 1.0),
        ):
            stem, rows = f"{prefix}{name}_proj", heads * config.head_dim
            weight = self._matrix(stem + ".weight", rows, self._hidden, scale)
            bias = self._tensors(stem + ".bias", (rows,)).to(self._device)
            bias = _scaled(bias, scale).to(self._dtype)
            if name != "v":
                weight, bias = self._pairs(weight), pair_rows(bias, config.head_dim)
            weights.append(weight)
            biases.append(bias)
        return Projection(self._stacked(weights), torch.cat(biases))

    def _pairs(self, matrix: Matrix) -> Matrix:
        """A query or key matrix with rotated pairs side by side."""
        head_dim = self._config.head_dim
        if isinstance(matrix, Int8):
            return Int8(pair_rows(matrix.codes, head_dim), pair_rows(matrix.scales, head_dim))
        return pair_rows(matrix, head_dim)

    def _stacked(self, parts: list[Matrix]) -> Matrix:
        """The rows of all parts, in INT8 where all are."""
        coded = [part for part in parts if isinstance(part, Int8)]
        if len(coded) < len(parts):
            return torch.cat([plain(part, self._dtype) for part in parts])
        return Int8(
            torch.cat([part.codes for part in coded]), torch.cat([part.scales for part in coded])
        )

    def _experts(self, name: str, count: int, rows: int, columns: int) -> Affine:
        """All experts' matrices (experts, rows, columns); plain ones are stored transposed."""
        if name + "_blocks" in self._tensors:
            packed = self._packed(name, count, rows, columns)
            weight = mxfp4.dequantise(packed.blocks, packed.scales, self._dtype)
            return Affine(weight.to(self._device), packed.bias)
        bias = self._keep(name + "_bias", count, rows)
        if name + "_values" in self._tensors:
            codes = self._typed(name + "_values", torch.float8_e4m3fn, count, rows, columns)
            tiles = fp8.tiles(rows, columns)
            scales = self._typed(name + "_tile_scales", torch.float32, count, *tiles)
            return Affine(fp8.dequantise(codes, scales, self._dtype).to(self._device), bias)
        return Affine(self._take(name, count, columns, rows).mT.contiguous(), bias)

    def _packed(self, name: str, count: int, rows: int, columns: int) -> Mxfp4:
        blocks, half = columns // mxfp4.BLOCK_VALUES, mxfp4.BLOCK_VALUES // 2
        return Mxfp4(
            blocks=self._typed(name + "_blocks", torch.uint8, count, rows, blocks, half),
            scales=self._typed(name + "_scales", torch.uint8, count, rows, blocks),
            bias=self._keep(name + "_bias", count, rows),
            interleaved=False,
        )


def gates_first(tensor: torch.Tensor) -> torch.Tensor:
    """Returns (experts, 2 * inner, ...) of rows in which gates and ups alternate."""
    return torch.cat((tensor[:, ::2], tensor[:, 1::2]), dim=1)


def _scaled(tensor: torch.Tensor, scale: float) -> torch.Tensor:
    """The tensor itself, or a product in float32."""
    return tensor if scale == 1.0 else tensor.to(torch.float32) * scale
