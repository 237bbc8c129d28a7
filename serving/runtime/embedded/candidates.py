"""Which tokens of one row may be drawn, and the draw. All functions are pure, rows are numpy.

They look at a whole row (201,088 entries) only in passes that numpy vectorises, and sort it only
where the answer needs it. A row of the vocabulary costs about 0.1 ms, most of it the exponentials.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.job import Sampling

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]

# Rows of the matrix that a vocabulary is folded into, so that one pass reduces it by columns.
FOLD = 128
# How many leading tokens are looked at before the whole row is sorted for top_p.
LEADING = 256


class Leading(NamedTuple):
    """Tokens from the largest value down; among equal values the lower id comes first."""

    ids: Ids
    values: Floats


def uniform(seed: int, position: int) -> float:
    """Returns a number in [0, 1) that depends on nothing but its two arguments.

    It is the first 53 bits of BLAKE2b over both as 64-bit integers, so a sequence draws the same
    numbers alone, in any batch and after any restart.
    """
    key = (seed & 0xFFFF_FFFF_FFFF_FFFF).to_bytes(8, "little") + position.to_bytes(8, "little")
    return (int.from_bytes(blake2b(key, digest_size=8).digest(), "little") >> 11) * 2.0**-53


def leading(values: Floats, count: int) -> Leading:
    """Returns the `count` largest entries, and those that equal the last of them.

    `values` must not hold NaN. With a `count` beyond the row's length all entries are returned.
    """
    count = min(count, values.size)
    columns = values.size // FOLD
    if count < columns:
        # The count-th largest of the columns' maxima is at most the count-th largest entry.
        maxima = values[: FOLD * columns].reshape(FOLD, columns).max(axis=0)
        floor = np.partition(maxima, columns - count)[columns - count]
    else:
        floor = np.partition(values, values.size - count)[values.size - count]
    ids = np.flatnonzero(values >= floor)
    chosen = values[ids]
    order = np.argsort(-chosen, kind="stable")
    ids, chosen = ids[order], chosen[order]
    end = int(np.searchsorted(-chosen, -chosen[count - 1], side="right"))
    return Leading(ids[:end], chosen[:end])


def threshold(probabilities: Floats, sampling: Sampling) -> float:
    """Returns the least probability that top_k, top_p and min_p let through, 0.0 for all.

    top_p counts within what top_k leaves, renormalised; min_p is relative to the largest
    probability. The largest always passes, and so do all that equal the last one that passes:
    equal probabilities are never told apart.
    """
    least = 0.0
    if sampling.min_p > 0.0:
        least = min(sampling.min_p, 1.0) * float(probabilities.max())
    mass = 1.0
    ranked: Floats | None = None
    if 0 < sampling.top_k < probabilities.size:
        ranked = leading(probabilities, sampling.top_k).values
        mass = float(ranked.sum(dtype=np.float64))
        least = max(least, float(ranked[-1]))
    if sampling.top_p < 1.0:
        least = max(least, _nucleus_threshold(probabilities, ranked, sampling.top_p * mass))
    return least


def _nucleus_threshold(probabilities: Floats, ranked: Floats | None, mass: float) -> float:
    """Returns the least of the fewest largest probabilities that reach `mass` together.

    `ranked`, where given, holds all that may be taken, from the largest down.
    """
    if ranked is None:
        ranked = leading(probabilities, LEADING).values
        sums = np.cumsum(ranked, dtype=np.float64)
        if sums[-1] < mass:
            ranked = np.sort(probabilities)[::-1]
            sums = np.cumsum(ranked, dtype=np.float64)
    else:
        sums = np.cumsum(ranked, dtype=np.float64)
    last = min(int(np.searchsorted(sums, mass, side="left")), ranked.size - 1)
    return float(ranked[last])


def draw(probabilities: Floats, number: float, least: float = 0.0) -> int | None:
    """Returns the token that `number` in [0, 1) falls on, among those of at least `least`.

    A token's share is its probability over the sum of those that take part; the shares lie in
    one fixed order, so that a small change of the probabilities seldom changes the token. None
    when the row has no mass: it holds NaN, or nothing but zeros.
    """
    if least > 0.0:
        ids = np.flatnonzero(probabilities >= least)
        if ids.size == 0:
            return None
        return int(ids[_fall(probabilities[ids], number)])
    columns = probabilities.size // FOLD
    body = FOLD * columns
    folded = probabilities[:body].reshape(FOLD, columns)
    tail = probabilities[body:]
    sums = np.cumsum(np.append(folded.sum(axis=0), tail.sum()), dtype=np.float64)
    total = float(sums[-1])
    if not 0.0 < total < np.inf:
        return None
    target = number * total
    column = min(int(np.searchsorted(sums, target, side="right")), columns)
    while sums[column] == (sums[column - 1] if column else 0.0):
        column -= 1  # rounding put the target behind the last column that has mass
    before = float(sums[column - 1]) if column else 0.0
    share = (target - before) / (float(sums[column]) - before)
    if column == columns:
        return body + _fall(tail, share)
    return _fall(folded[:, column], share) * columns + column


def _fall(weights: Floats, number: float) -> int:
    """Returns the index that `number` falls on. Never one without weight. The sum is positive."""
    sums = np.cumsum(weights, dtype=np.float64)
    index = int(np.searchsorted(sums, number * sums[-1], side="right"))
    if index < sums.size and weights[index] > 0.0:
        return index
    return int(np.flatnonzero(weights)[-1])
