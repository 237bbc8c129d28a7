"""Which tokens of one row may be drawn, and the draw itself. Pure functions over numpy rows.

A row has 201,088 entries: each function takes a few passes that numpy vectorises, and sorts the
whole row only where nothing less can answer.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.boundary.sampling import Sampling

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

# Entries that one reduction folds into one, so that a row is searched through far fewer sums.
FOLD = 128
# How many of the largest entries are tried for top_p before the whole row is sorted.
LEADING = 256


class Candidates(NamedTuple):
    """What one row may give. `ids` None: weight i is that of token i.

    `weights` are in proportion to the probabilities, the largest is 1; zero is never drawn.
    """

    ids: Ids | None
    weights: Floats

    def draw(self, number: float) -> int:
        """Returns the token that `number` in [0, 1) falls on."""
        index = draw(self.weights, number)
        return index if self.ids is None else int(self.ids[index])


def candidates(scores: Floats, peak: np.float32, sampling: Sampling, scratch: Floats) -> Candidates:
    """Returns the tokens that temperature, top_k, top_p and min_p leave of one row of logits.

    `peak`, the largest of `scores`, is finite, and none is NaN. The weights are written to
    `scratch`, as long as `scores` or `scores` itself.
    """
    ids = None
    if 0 < sampling.top_k < scores.size:
        ids = foremost(scores, sampling.top_k)
        scores = scores[ids]
    weights = np.subtract(scores, peak, out=scratch[: scores.size])
    if sampling.temperature != 1.0:
        weights *= np.float32(1.0 / sampling.temperature)
    np.exp(weights, out=weights)
    # The largest weight is 1, so min_p is itself the least weight that passes.
    least = min(sampling.min_p, 1.0)
    if sampling.top_p < 1.0:
        least = max(least, nucleus(weights, sampling.top_p))
    if least > 0.0:
        weights *= weights >= np.float32(least)
    return Candidates(ids, weights)


def uniform(seed: int, position: int) -> float:
    """Returns a number in [0, 1) that depends on nothing but its two arguments.

    It is the first 53 bits of BLAKE2b over both as 64-bit integers, so a sequence draws the same
    numbers alone, in any batch and after any restart.
    """
    key = (seed & 0xFFFF_FFFF_FFFF_FFFF).to_bytes(8, "little") + position.to_bytes(8, "little")
    return (int.from_bytes(blake2b(key, digest_size=8).digest(), "little") >> 11) * 2.0**-53


def foremost(values: Floats, count: int) -> Ids:
    """Returns, ascending, the indices of the `count` largest entries and of the last's equals.

    1 <= count <= size. `values` must not hold NaN.
    """
    columns = values.size // FOLD
    floor = np.float32(-np.inf)
    if count < columns:
        # The count-th largest of the columns' maxima is never above the count-th largest entry.
        maxima = values[: FOLD * columns].reshape(FOLD, columns).max(axis=0)
        maxima.partition(columns - count)
        floor = maxima[columns - count]
    ids = np.flatnonzero(values >= floor)
    kept = values[ids]
    least = np.partition(kept, kept.size - count)[kept.size - count]
    return np.compress(kept >= least, ids)


def leading(values: Floats, count: int) -> Ids:
    """Returns the `count` largest entries' indices, largest first, among equals the lower first."""
    ids = foremost(values, min(count, values.size))
    return ids[np.argsort(-values[ids], kind="stable")][:count]


def nucleus(weights: Floats, share: float) -> float:
    """Returns the least of the fewest largest weights that make up `share` of their sum.

    `weights` are finite, not negative, and not all zero; 0 <= share < 1. The largest always
    belongs to them.
    """
    wanted = share * float(_folded_sums(weights)[-1])
    if weights.size > 4 * LEADING:
        top = weights[foremost(weights, LEADING)]
        top[::-1].sort()
        sums = np.cumsum(top, dtype=np.float64)
        if sums[-1] >= wanted:
            return float(top[np.searchsorted(sums, wanted, side="left")])
    ranked = np.zeros(-(-weights.size // FOLD) * FOLD, dtype=np.float32)
    ranked[: weights.size] = weights
    ranked.sort()
    blocks = ranked.reshape(-1, FOLD)[::-1]
    sums = np.cumsum(blocks.sum(axis=1), dtype=np.float64)
    index = min(int(np.searchsorted(sums, wanted, side="left")), len(blocks) - 1)
    block = blocks[index][::-1]
    inner = np.cumsum(block, dtype=np.float64) + (sums[index - 1] if index else 0.0)
    return float(block[min(int(np.searchsorted(inner, wanted, side="left")), FOLD - 1)])


def draw(weights: Floats, number: float) -> int:
    """Returns the index that `number` in [0, 1) falls on when each has its weight's share.

    The shares lie in one fixed order that the weights do not change, so a small error in them
    seldom changes the index. `weights` are finite, not negative, and not all zero; an index
    without weight is never returned.
    """
    columns = weights.size // FOLD
    body = FOLD * columns
    sums = _folded_sums(weights)
    column = _fall(sums, number * float(sums[-1]))
    before = float(sums[column - 1]) if column else 0.0
    rest = number * float(sums[-1]) - before
    if column == columns:
        return body + _fall(np.cumsum(weights[body:], dtype=np.float64), rest)
    inner = np.cumsum(weights[column:body:columns], dtype=np.float64)
    return _fall(inner, rest) * columns + column


def _folded_sums(weights: Floats) -> NDArray[np.float64]:
    """Returns the running sums of the columns of the row folded to (FOLD, columns).

    The last entry adds what did not fit: it is the sum of all.
    """
    columns = weights.size // FOLD
    sums = np.empty(columns + 1, dtype=np.float64)
    sums[:columns] = weights[: FOLD * columns].reshape(FOLD, columns).sum(axis=0)
    sums[columns] = weights[FOLD * columns :].sum()
    return np.cumsum(sums, out=sums)


def _fall(sums: NDArray[np.float64], target: float) -> int:
    """Returns the first index whose running sum is above `target`, or the last that adds to it."""
    index = int(np.searchsorted(sums, target, side="right"))
    if index < sums.size:
        return index
    # Rounding put the target at the very end: take the last entry that has weight.
    return int(np.searchsorted(sums, sums[-1], side="left"))
