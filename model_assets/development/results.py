"""Values that are asked for, and results in no form of their own."""

from __future__ import annotations

import json
from random import Random

from model_assets.development.words import CITIES, NAMES, NOUNS, SYMBOLS


def value_asked(rng: Random) -> str:
    """Returns a name, a number, a code or a few words."""
    return rng.choice(
        (
            rng.choice(CITIES),
            rng.choice(NAMES),
            rng.choice(NOUNS),
            rng.choice(SYMBOLS),
            " ".join(rng.sample(NOUNS, 2)),
            str(rng.randint(1, 99)),
            f"{rng.choice('ABCX')}{rng.randint(100, 999)}",
            f"{rng.choice(NAMES)} {rng.choice(NAMES)}",
        )
    )


def returned(rng: Random, topic: str) -> tuple[str, str]:
    """Returns what a tool without a form of its own returns, and the answer that quotes it."""
    thing = rng.choice(
        (value_asked(rng), " ".join(rng.sample(NOUNS, 3)), str(rng.randint(0, 9999)))
    )
    if rng.random() < 0.12:
        reason = (
            rng.choice(("not found", "timeout", "permission denied", "unknown", "invalid"))
            + f" {thing}"
        )
        result = rng.choice((json.dumps({"error": reason}), f"error: {reason}", f"Error: {reason}"))
        return result, f"The tool reported an error: {reason}"
    key = rng.choice(("result", "value", "answer", "name", "title", "status", topic.split()[-1]))
    result = rng.choice(
        (
            thing,
            thing,
            json.dumps({key: thing}),
            json.dumps({key: thing, "id": rng.randint(1, 999)}),
            json.dumps([thing]),
        )
    )
    return result, f"Here is the result:\n\n{result}"
