"""Linear layers, with weights packed for oneDNN where that is faster.

oneDNN's prepacked linear reads the weight at memory bandwidth. Its operator is private to torch,
so `packs` tries it once at start and the plain `F.linear` remains the fallback. Packed, a row gives
the same bits alone and in any batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


class Linear:
    """y = x W^T + b for x (rows, in_features)."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, *, packed: bool) -> None:
        self._bias = bias
        self._packed = packed
        self._weight = _pack(weight) if packed else weight.contiguous()

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Returns (rows, out_features)."""
        if self._packed:
            y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
                x, self._weight, self._bias, "none", [], ""
            )
            return y
        return F.linear(x, self._weight, self._bias)


def packs(device: torch.device, dtype: torch.dtype) -> bool:
    """True when this torch has the packed operator, here, and it computes what F.linear does."""
    if device.type != "cpu":
        return False
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(shape, generator=generator).to(dtype) for shape in ((3, 64), (96, 64)))
    try:
        packed = Linear(weight, None, packed=True)(x)
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return torch.allclose(packed.float(), F.linear(x, weight).float(), rtol=2e-2, atol=1e-1)


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where its matrix products are in hardware, else float32."""
    if device.type == "cuda":
        return torch.bfloat16
    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32


def _pack(weight: torch.Tensor) -> torch.Tensor:
    packed: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
    return packed
