"""How far apart two distributions are of which only the likeliest tokens are known."""

from __future__ import annotations

import math
from collections.abc import Mapping


def least_divergence(reference: Mapping[int, float], other: Mapping[int, float]) -> float:
    """Returns the least Kullback-Leibler divergence D(reference || other) in nats that both allow.

    Each gives the natural logarithms of its likeliest tokens' probabilities; every other token is
    at most as likely as the last of them. Merging tokens never raises D (data processing
    inequality), so three kinds remain: each token that both know; those that only the reference
    knows, merged, whose probability in `other` is bounded by its least likely known token; and the
    rest. D is smallest where those two share what is left of `other` as they do in the reference,
    or at the bound. Raises ValueError for an empty distribution or a number that is none.
    """
    p, q = _probabilities(reference), _probabilities(other)
    both = p.keys() & q.keys()
    total = sum(p[token] * math.log(p[token] / q[token]) for token in both if p[token])
    alone = [p[token] for token in p.keys() - both]
    p_alone = sum(alone)
    p_rest = max(0.0, 1.0 - sum(p.values()))
    q_left = max(0.0, 1.0 - sum(q[token] for token in both))
    if p_alone + p_rest <= _NOTHING:
        return max(0.0, total)
    bound = min(q_left, len(alone) * min(q.values()))
    q_alone = min(bound, q_left * p_alone / (p_alone + p_rest))
    total += _term(p_alone, q_alone) + _term(p_rest, q_left - q_alone)
    return max(0.0, total)


_NOTHING = 1e-9
"""Below it a probability is what rounding has left."""


def _probabilities(logarithms: Mapping[int, float]) -> dict[int, float]:
    if not logarithms:
        raise ValueError("there are no log-probabilities")
    if any(math.isnan(value) for value in logarithms.values()):
        raise ValueError("a log-probability is not a number")
    # Never zero: a token that rounding made impossible must not make the result infinite.
    return {token: math.exp(max(value, -80.0)) for token, value in logarithms.items()}


def _term(p: float, q: float) -> float:
    return p * math.log(p / max(q, _NOTHING)) if p > _NOTHING else 0.0
