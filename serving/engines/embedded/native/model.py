"""A model in the form that the C functions read: weights in panels, and pointers to them."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from serving.engines.embedded.attention import Geometry, geometry
from serving.engines.embedded.checkpoint import ModelConfig, open_tensors, read_config
from serving.engines.embedded.mxfp4 import BLOCK_VALUES
from serving.engines.embedded.native.library import (
    CCache,
    CHeads,
    CLayer,
    CMatrix,
    CModel,
    Library,
    NativeError,
)
from serving.engines.embedded.native.panels import PANEL, byte_panels, code_panels, panels
from serving.engines.embedded.rope import concentration, inverse_frequencies
from serving.engines.embedded.weights import Affine, Int8, Matrix, Mxfp4, Projection, Weights

LANES = 16
MOST_HEAD_DIM = 256
MOST_BLOCK_TOKENS = 64
MOST_GROUP = 64
MOST_UNPACKED_BYTES = 1 << 30
"""Experts in MXFP4 that would take more in bfloat16 stay as they are. Unpacking a panel when it is
used costs a tenth of a small model's decode rate; a large one does not fit the memory otherwise."""
DTYPE = torch.bfloat16
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class NativeModel:
    """The weights of a GPT-OSS model as C structs. `kept` is the memory that they point to."""

    library: Library
    config: ModelConfig
    sizes: Geometry
    layers: ctypes.Array[CLayer]
    structs: CModel
    kept: tuple[torch.Tensor, ...]

    @property
    def dtype(self) -> torch.dtype:
        """bfloat16."""
        return DTYPE

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return CPU


def check(config: ModelConfig, block_tokens: int) -> None:
    """Raises NativeError for a model or a cache block of sizes that the C functions do not take."""
    vectors = {
        "hidden_size": (config.hidden_size, LANES),
        "intermediate_size": (config.intermediate_size, LANES),
        "head_dim": (config.head_dim, 2 * LANES),
        "block_tokens": (block_tokens, LANES),
    }
    for name, (value, multiple) in vectors.items():
        if value % multiple:
            raise NativeError(f"{name} {value} is no multiple of {multiple}")
    for name, value, most in (
        ("head_dim", config.head_dim, MOST_HEAD_DIM),
        ("block_tokens", block_tokens, MOST_BLOCK_TOKENS),
        ("query heads of a key head", config.group, MOST_GROUP),
    ):
        if value > most:
            raise NativeError(f"{name}: {value} is more than {most}")


def load_native(
    directory: Path,
    *,
    block_tokens: int,
    library: Library,
    most_unpacked_bytes: int = MOST_UNPACKED_BYTES,
) -> NativeModel:
    """Returns the model of a checkpoint directory. Raises CheckpointError and NativeError."""
    config = read_config(directory)
    check(config, block_tokens)
    tensors = open_tensors(directory)
    with torch.inference_mode():
        packer = _Packer(unpacks=expert_bytes(config) <= most_unpacked_bytes)
        weights = Weights(config, tensors, DTYPE, CPU)
        # The largest matrix first: while it is packed, its file's pages are in memory beside it.
        head = packer.matrix(weights.head(), None)
        layers = (CLayer * config.num_layers)(
            *(packer.layer(weights, index) for index in range(config.num_layers))
        )
        sizes = geometry(config, block_tokens)
        structs = CModel(
            heads=CHeads(
                heads=config.num_heads,
                kv_heads=config.num_kv_heads,
                head_dim=config.head_dim,
                block_tokens=block_tokens,
                window=config.sliding_window,
            ),
            layers=config.num_layers,
            hidden=config.hidden_size,
            vocabulary=config.vocab_size,
            experts=config.num_experts,
            per_token=config.experts_per_token,
            inner=config.intermediate_size,
            epsilon=config.rms_norm_eps,
            alpha=config.swiglu_alpha,
            limit=config.swiglu_limit,
            magnitude=concentration(config.rope),
            frequencies=packer.floats(inverse_frequencies(config.rope, config.head_dim)),
            embedding=packer.keep(weights.embedding()),
            layer=layers,
            final_norm=packer.floats(weights.final_norm()),
            head=head,
        )
    return NativeModel(library, config, sizes, layers, structs, tuple(packer.kept))


def expert_bytes(config: ModelConfig) -> int:
    """Returns what all experts' matrices take in bfloat16."""
    matrices = 3 * config.num_layers * config.num_experts
    return matrices * config.hidden_size * config.intermediate_size * DTYPE.itemsize


class _Packer:
    """Packs tensors and keeps them. With `unpacks`, experts in MXFP4 become bfloat16; matrices in
    INT8 never do."""

    def __init__(self, *, unpacks: bool) -> None:
        self._unpacks = unpacks
        self.kept: list[torch.Tensor] = []

    def keep(self, tensor: torch.Tensor) -> int:
        """Returns where the tensor is, which from now on stays there."""
        self.kept.append(tensor)
        return tensor.data_ptr()

    def floats(self, tensor: torch.Tensor) -> int:
        """As `keep`, in float32."""
        return self.keep(tensor.to(torch.float32).contiguous().clone())

    def matrix(self, weight: Matrix, bias: torch.Tensor | None) -> CMatrix:
        """Returns the struct of a matrix, or of the first of a stack of them."""
        if isinstance(weight, Int8):
            shape, scales = weight.codes.shape, self.padded(weight.scales)
            weights = self.keep(code_panels(weight.codes))
        else:
            shape, scales = weight.shape, None
            weights = self.keep(panels(weight))
        return CMatrix(
            weights=weights,
            row_scales=scales,
            bias=None if bias is None else self.padded(bias),
            outputs=shape[-2],
            inputs=shape[-1],
        )

    def affine(self, part: Affine | Projection) -> CMatrix:
        """As `matrix`."""
        return self.matrix(part.weight, part.bias)

    def padded(self, outputs: torch.Tensor) -> int:
        """As `floats`, padded to whole panels."""
        return self.floats(F.pad(outputs, (0, -outputs.shape[-1] % PANEL)))

    def packed(self, experts: Mxfp4) -> CMatrix:
        """Returns the struct of the first of a stack of matrices in MXFP4."""
        rows = {"interleaved": experts.interleaved}
        return CMatrix(
            weights=self.keep(byte_panels(experts.blocks.flatten(-2), **rows)),
            scales=self.keep(byte_panels(experts.scales, **rows)),
            bias=self.padded(experts.bias),
            outputs=experts.blocks.shape[1],
            inputs=experts.blocks.shape[2] * BLOCK_VALUES,
        )

    def layer(self, weights: Weights, index: int) -> CLayer:
        """Returns the struct of a layer, without a cache yet."""
        layer = weights.layer(index)
        experts = None if self._unpacks else weights.packed_experts(index)
        if experts is not None:
            gate_up, down = map(self.packed, experts)
        else:
            gate_up, down = map(self.affine, weights.experts(index))
        return CLayer(
            attention_norm=self.floats(layer.attention_norm),
            experts_norm=self.floats(layer.experts_norm),
            qkv=self.affine(layer.qkv),
            out=self.affine(layer.out),
            router=self.affine(layer.router),
            gate_up=gate_up,
            down=down,
            cache=CCache(sinks=self.floats(layer.sinks), sliding=layer.sliding),
        )
