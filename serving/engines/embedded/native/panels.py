"""Matrices in panels of 64 outputs, in each of the forms that matrix.h multiplies."""

from __future__ import annotations

import torch
import torch.nn.functional as F

PANEL = 64
CODED_AT_ONCE = 64
"""Panels in INT8 that are made at once: what that takes beside them stays small."""


def panels(weight: torch.Tensor) -> torch.Tensor:
    """Returns (..., panels, in / 2, PANEL, 2) for bfloat16 (..., out, in), padded with zero rows.

    For each pair of inputs, that pair of each of a panel's outputs.
    """
    *stack, rows, columns = weight.shape
    padding = -rows % PANEL
    whole = (F.pad(weight, (0, 0, 0, padding)) if padding else weight).contiguous()
    # A pair moves as one number of four bytes.
    pairs = whole.view(torch.int32).view(*stack, -1, PANEL, columns // 2)
    packed = pairs.transpose(-2, -1).contiguous()
    return packed.view(torch.bfloat16).view(*packed.shape, 2)


def byte_panels(stack: torch.Tensor, *, interleaved: bool = False) -> torch.Tensor:
    """Returns (matrices, panels, columns, PANEL) for bytes (matrices, rows, columns).

    Zero rows pad them. Of `interleaved` rows the even ones come first. One matrix is packed at a
    time, through the same scratch buffer, so that no second copy of the stack is made.
    """
    count, rows, columns = stack.shape
    packed = torch.empty((count, -(-rows // PANEL), columns, PANEL), dtype=torch.uint8)
    scratch = torch.zeros((packed.shape[1] * PANEL, columns), dtype=torch.uint8)
    for codes, panels_of_it in zip(stack, packed, strict=True):
        if interleaved:
            scratch[: rows // 2] = codes[::2]
            scratch[rows // 2 : rows] = codes[1::2]
        else:
            scratch[:rows] = codes
        panels_of_it.copy_(scratch.view(-1, PANEL, columns).transpose(-2, -1))
    return packed


def code_panels(codes: torch.Tensor) -> torch.Tensor:
    """Returns uint8 (panels, in / 2, PANEL, 2) for INT8 codes (out, in), padded with zero rows.

    A byte is the magnitude, and 128 more where the code is negative. For each pair of inputs, that
    pair of each of a panel's outputs, in the order 0-3, 16-19, 4-7, 20-23, 8-11, 24-27, 12-15,
    28-31, and the upper half alike: a look-up of 64 bytes leaves those of 0-15 in the lower half of
    every 16, where one instruction puts them together.
    """
    rows, columns = codes.shape
    packed = torch.empty((-(-rows // PANEL), columns // 2, PANEL, 2), dtype=torch.uint8)
    for first in range(0, len(packed), CODED_AT_ONCE):
        part = codes[first * PANEL : (first + CODED_AT_ONCE) * PANEL]
        whole = F.pad(part.abs() | (part & -128), (0, 0, 0, -len(part) % PANEL))
        # A pair moves as one number of two bytes.
        pairs = whole.view(torch.int16).view(-1, PANEL // 32, 2, 4, 4, columns // 2)
        ordered = pairs.permute(0, 5, 1, 3, 2, 4).contiguous()
        packed[first : first + CODED_AT_ONCE] = ordered.view(torch.uint8).view(
            -1, *packed.shape[1:]
        )
    return packed
