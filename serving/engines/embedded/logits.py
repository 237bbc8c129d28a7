"""Rows of a logits tensor, read the cheapest way that its device and number format allow.

`rows` picks the reader. Every reader answers the same two questions: the largest entry of a row,
and a copy of a row as float32 on the host.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from serving.engines.embedded.candidates import Floats

# Exponent bits of bfloat16: all set for infinity and for NaN.
EXPONENT = 0x7F80


class Rows(Protocol):
    """What every reader can do."""

    def largest(self, row: int) -> int | None:
        """Returns the index of the largest entry, the lowest among equals.

        NaN counts as minus infinity. None when no entry is above minus infinity.
        """
        ...

    def copy(self, row: int, target: Floats) -> None:
        """Writes one row, (vocab,), to `target`."""
        ...


def rows(logits: torch.Tensor) -> Rows:
    """Returns a reader of `logits`, (rows, vocab), of any floating type and on any device."""
    if logits.device.type != "cpu":
        return DeviceRows(logits)
    if logits.dtype == torch.bfloat16:
        return BFloat16Rows(logits)
    return Float32Rows(logits)


class Float32Rows:
    """Rows on the host as float32."""

    def __init__(self, logits: torch.Tensor) -> None:
        self._values: Floats = logits.float().numpy()

    def largest(self, row: int) -> int | None:
        return largest(self._values[row])

    def copy(self, row: int, target: Floats) -> None:
        target[:] = self._values[row]


class BFloat16Rows:
    """Rows on the host as bfloat16, compared by their bits: 15 times faster than by value.

    As 16-bit integers, numbers without a sign bit keep their order and lie above all those with
    one, which are in reverse order.
    """

    def __init__(self, logits: torch.Tensor) -> None:
        self._bits: NDArray[np.int16] = logits.view(torch.int16).numpy()

    def largest(self, row: int) -> int | None:
        bits = self._bits[row]
        index = int(bits.argmax())
        if bits[index] < 0:
            index = int(bits.argmin())
        if int(bits[index]) & EXPONENT != EXPONENT:
            return index
        values = np.empty(bits.size, dtype=np.float32)
        self.copy(row, values)
        return largest(values)

    def copy(self, row: int, target: Floats) -> None:
        # A bfloat16 is the upper half of the float32 of the same value.
        wide = target.view(np.int32)
        wide[:] = self._bits[row]
        np.left_shift(wide, 16, out=wide)


class DeviceRows:
    """Rows on another device: the largest are found there, in one pass for all rows."""

    def __init__(self, logits: torch.Tensor) -> None:
        self._logits = logits
        self._largest: list[tuple[float, int]] | None = None

    def largest(self, row: int) -> int | None:
        if self._largest is None:
            peaks, indices = self._logits.float().max(dim=-1)
            self._largest = list(zip(peaks.tolist(), indices.tolist(), strict=True))
        peak, index = self._largest[row]
        if np.isfinite(peak):
            return index
        values = np.empty(self._logits.shape[1], dtype=np.float32)
        self.copy(row, values)
        return largest(values)

    def copy(self, row: int, target: Floats) -> None:
        torch.from_numpy(target).copy_(self._logits[row])


def largest(values: Floats) -> int | None:
    """Returns the index of the largest entry of one row, under the rules of `Rows.largest`."""
    index = int(values.argmax())
    if not np.isfinite(values[index]):
        values = values.copy()
        repair(values)
        index = int(values.argmax())
    return index if values[index] > -np.inf else None


def repair(values: Floats) -> None:
    """Makes NaN minus infinity and plus infinity the largest float, in place."""
    greatest = float(np.finfo(np.float32).max)
    np.nan_to_num(values, copy=False, nan=-np.inf, posinf=greatest, neginf=-np.inf)
