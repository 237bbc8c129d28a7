"""The kinds of tools that a scene may offer."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from model_assets.development.errands import clock, currency, email, search
from model_assets.development.offers import Offer
from model_assets.development.subjects import generic
from model_assets.development.sums import calculator
from model_assets.development.weather import weather

KINDS: tuple[tuple[Callable[[Random], Offer], float], ...] = (
    (weather, 4),
    (calculator, 2),
    (clock, 1),
    (search, 1.5),
    (email, 1),
    (currency, 1),
    (generic, 3),
)


def offers(rng: Random, count: int) -> list[Offer]:
    """Returns `count` tools with different subjects and names."""
    chosen: list[Offer] = []
    makers, weights = zip(*KINDS, strict=True)
    while len(chosen) < count:
        (maker,) = rng.choices(makers, weights)
        offer = maker(rng)
        if all(offer.subject != o.subject and offer.tool.name != o.tool.name for o in chosen):
            chosen.append(offer)
    return chosen
