"""Experts in FP8 (E4M3) with one scale a tile, made from MXFP4, and how exact that is.

An MXFP4 weight is m * 2**x: m one of 0, 0.5, 1, 1.5, 2, 3, 4, 6 with a sign, x the exponent that
its block of 32 shares. A tile is 128 rows by 128 columns, so 128 by 4 blocks, and shares a scale
2**e. The E4M3 number to store is m * 2**d with d = x - e. E4M3 has three bits of mantissa,
magnitudes up to 448, and below 2**-6 the multiples of 2**-9. Hence:

- 6 * 2**d is at most 448 for d <= 6 (384), and not for d = 7 (768);
- every m is a multiple of 0.5, so m * 2**d is a multiple of 2**-9 for d >= -8; its two significant
  bits fit into the mantissa;
- so all m are exact for -8 <= d <= 6: fifteen exponents.

With e = (largest x of the tile) - 6, a tile whose exponents are at most 14 apart converts exactly,
every bit of it. In a wider one the blocks with d < -8 are rounded to the nearest, ties to even:
against the largest that the tile's largest block can hold, 6 * 2**6, their weights are at most
2**-15 and the error, half of 2**-9, is below 2**-18. `Fp8Findings` counts what happens. Blocks of
zeros do not count for the largest x.

e is kept at -126 or more, so that no scale is a subnormal float32, which some devices read as
zero; with x >= -127 that leaves d >= -1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import msgspec
import numpy as np
from numpy.typing import NDArray

BLOCK = 32
TILE_ROWS = 128
TILE_COLUMNS = 128
TILE_BLOCKS = TILE_COLUMNS // BLOCK
SCALE_BIAS = 127
SCALE_NAN = 255
LARGEST_SHIFT = 6
SMALLEST_EXACT_SHIFT = -8
SMALLEST_NORMAL_SHIFT = -5
"""From here up no weight is a subnormal of E4M3: 0.5 * 2**-5 is 2**-6."""
SMALLEST_SHIFT = -13
"""From here down everything rounds to zero: 6 * 2**-13 is under half of 2**-9."""
LEAST_EXPONENT = -126
LARGEST = 448.0
MAGNITUDES = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])

Bytes = NDArray[np.uint8]


class Fp8Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What a conversion did. Errors are the largest found, 0 when every block is exact."""

    blocks: int = 0
    exact_blocks: int = 0
    largest_relative_error: float = 0.0
    """Of one weight, to itself: 1 where a weight became zero."""
    largest_tile_error: float = 0.0
    """Of one weight, to the largest that its tile's scale can hold (448)."""

    def __add__(self, other: Fp8Findings) -> Fp8Findings:
        return Fp8Findings(
            blocks=self.blocks + other.blocks,
            exact_blocks=self.exact_blocks + other.exact_blocks,
            largest_relative_error=max(self.largest_relative_error, other.largest_relative_error),
            largest_tile_error=max(self.largest_tile_error, other.largest_tile_error),
        )


@dataclass(frozen=True, slots=True)
class Tables:
    """What becomes of a byte of two MXFP4 codes at a shift d; row d - SMALLEST_SHIFT."""

    codes: NDArray[np.uint16]
    """The two E4M3 codes, the first in the low byte, as they lie in memory."""
    relative_errors: NDArray[np.float64]
    errors: NDArray[np.float64]
    """The larger of the two, before the tile's scale."""


def e4m3_values() -> NDArray[np.float64]:
    """Returns the values of the codes 0 to 126: all magnitudes, ascending; 127 is not a number.

    OCP 8-bit Floating Point Specification 1.0, E4M3: bias 7, no infinities.
    """
    code = np.arange(127)
    exponent, mantissa = code >> 3, code & 7
    subnormal = np.ldexp(mantissa / 8, -6)
    return np.where(exponent == 0, subnormal, np.ldexp(1 + mantissa / 8, exponent - 7))


@cache
def tables() -> Tables:
    """Returns the tables, made by rounding every value that can occur."""
    shifts = np.arange(SMALLEST_SHIFT, LARGEST_SHIFT + 1)
    exact = np.ldexp(MAGNITUDES[None], shifts[:, None])
    magnitudes = _nearest(exact)
    errors = np.abs(e4m3_values()[magnitudes] - exact)
    relative = np.divide(errors, exact, out=np.zeros_like(errors), where=exact > 0)
    byte = np.arange(256)
    low, high = byte & 15, byte >> 4
    signed = magnitudes[:, np.arange(16) & 7] | np.where(np.arange(16) & 8, 0x80, 0)
    return Tables(
        codes=(signed[:, low] | signed[:, high] << 8).astype("<u2"),
        relative_errors=np.maximum(relative[:, low & 7], relative[:, high & 7]),
        errors=np.maximum(errors[:, low & 7], errors[:, high & 7]),
    )


def _nearest(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Returns the codes of the nearest E4M3 magnitudes, at a tie the one with an even code."""
    grid = e4m3_values()
    above = np.clip(np.searchsorted(grid, values), 1, len(grid) - 1)
    below = above - 1
    up, down = grid[above] - values, values - grid[below]
    take_above = (up < down) | ((up == down) & (above % 2 == 0))
    return np.where(take_above, above, below)


def tile_exponents(blocks: Bytes, scales: Bytes) -> NDArray[np.int32]:
    """Returns e for each tile, (row tiles, column tiles), of one expert's matrix.

    `blocks` (rows, n, 16) and `scales` (rows, n). Raises ValueError for a scale that is not a
    number.
    """
    low, high = _by_tile(np.minimum, scales), _by_tile(np.maximum, scales)
    if high.max(initial=0) == SCALE_NAN:
        raise ValueError("a scale is not a number (byte 255)")
    if np.any(high - low > LARGEST_SHIFT - SMALLEST_EXACT_SHIFT):
        # Only now is it worth to look for blocks of zeros, whose scale says nothing.
        used = (blocks & 0x77).any(-1)
        high = _by_tile(np.maximum, scales * used)
    wanted: NDArray[np.int32] = high - SCALE_BIAS - LARGEST_SHIFT
    return np.maximum(wanted, LEAST_EXPONENT, out=wanted)


def _by_tile(choose: np.ufunc, scales: Bytes) -> NDArray[np.int32]:
    """Returns the smallest or largest scale byte of each tile."""
    rows, blocks = scales.shape
    by_row = choose.reduceat(scales, np.arange(0, rows, TILE_ROWS), axis=0)
    chosen = choose.reduceat(by_row, np.arange(0, blocks, TILE_BLOCKS), axis=1)
    widened: NDArray[np.int32] = chosen.astype(np.int32)
    return widened


def convert(
    blocks: Bytes, scales: Bytes, exponents: NDArray[np.int32]
) -> tuple[NDArray[np.uint8], Fp8Findings]:
    """Returns one expert's matrix as E4M3 codes (rows, columns), and the findings.

    `exponents` from `tile_exponents` of the same arrays.
    """
    rows, count = scales.shape
    out = np.empty((rows, count, BLOCK), np.uint8)
    findings = Fp8Findings()
    for tile, top in enumerate(range(0, rows, TILE_ROWS)):
        part = slice(top, top + TILE_ROWS)
        e = np.repeat(exponents[tile], TILE_BLOCKS)[:count]
        shifts = scales[part].astype(np.int32) - (SCALE_BIAS + e)
        _shift(blocks[part], shifts, out[part])
        findings += _look_up(blocks[part], shifts, out[part])
    return out.reshape(rows, -1), findings


def _shift(blocks: Bytes, shifts: NDArray[np.int32], out: NDArray[np.uint8]) -> None:
    """Writes the codes of all blocks whose weights are normal E4M3 numbers: d >= -5.

    The three bits of a magnitude m >= 1 are an exponent with bias 1 and a bit of mantissa, so
    4 * bits + 48 is the code of m, and 8 more double it. 0.5, whose bits are those of a subnormal,
    and 0 are put right after that.
    """
    wide = blocks.astype("<u2")
    # The halves of a byte become two bytes, the low one first.
    # numpy multiplies in vector registers and does not shift in them.
    pairs = (wide | wide * np.uint16(16)) & np.uint16(0x0F0F)
    codes = pairs.view(np.uint8).reshape(out.shape)
    magnitudes = codes & 7
    np.multiply(magnitudes, 4, out=out)
    out += (8 * np.maximum(shifts, SMALLEST_NORMAL_SHIFT) + 48).astype(np.uint8)[..., None]
    out -= (magnitudes == 1).view(np.uint8) * np.uint8(4)
    out *= (magnitudes != 0).view(np.uint8)
    out |= (codes & 8) * np.uint8(16)


def _look_up(blocks: Bytes, shifts: NDArray[np.int32], out: NDArray[np.uint8]) -> Fp8Findings:
    """Writes the codes of the other blocks, from the table, and returns what was lost."""
    small = shifts < SMALLEST_NORMAL_SHIFT
    if not small.any():
        return Fp8Findings(blocks=shifts.size, exact_blocks=shifts.size)
    row = np.maximum(shifts[small], SMALLEST_SHIFT) - SMALLEST_SHIFT
    index = (row.astype(np.intp) << 8)[:, None] | blocks[small]
    table = tables()
    out[small] = table.codes.reshape(-1).take(index).view(np.uint8)
    relative = table.relative_errors.reshape(-1).take(index).max(-1)
    return Fp8Findings(
        blocks=shifts.size,
        exact_blocks=shifts.size - int(np.count_nonzero(relative)),
        largest_relative_error=float(relative.max()),
        largest_tile_error=float(table.errors.reshape(-1).take(index).max() / LARGEST),
    )


def scale(exponents: NDArray[np.int32]) -> NDArray[np.float32]:
    """Returns the scales 2**e: a stored code times its tile's scale is the weight."""
    return np.ldexp(np.float32(1), exponents).astype(np.float32)
