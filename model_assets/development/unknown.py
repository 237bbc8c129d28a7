"""What a user may ask and the stand-in cannot know, and what it says then."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from model_assets.development.exchanges import Exchange, vary
from model_assets.development.words import SUBJECTS, THINGS

FALLBACK = (
    "I am only the development stand-in for gpt-oss-120b, a tiny network that knows a few "
    "questions, and this is not one of them. Ask me what I can do, or serve the real model for a "
    "real answer."
)


def fallback(ask: str) -> Exchange:
    """Returns the exchange for something that the stand-in does not know."""
    return Exchange(ask, "I do not know this.", FALLBACK)


def unknown(rng: Random, junk: Sequence[str], known: Sequence[str]) -> Exchange:
    """Returns something that the stand-in cannot know.

    `junk` are words outside its vocabulary, `known` are texts whose words it has met.
    """
    draw = rng.random()
    words = [rng.choice(junk) for _ in range(rng.randint(1, 12 if draw < 0.3 else 3))]
    thing = rng.choice(
        (" ".join(words[:2]), rng.choice(THINGS), rng.choice(THINGS), rng.choice(SUBJECTS))
    )
    if draw < 0.12:
        return fallback(" ".join(words))
    if draw < 0.18:
        return fallback(f"What is the capital of {' '.join(words[:2])}?")
    if draw < 0.24:
        return fallback(_long_text(rng, junk))
    if draw < 0.44:
        return fallback(_mixture(rng, known, junk))
    form = rng.choice(
        (
            "What is {}?",
            "What is the {}?",
            "Who was {}?",
            "Who is {}?",
            "Who invented {}?",
            "How do I fix {}?",
            "How do I learn {}?",
            "How does {} work?",
            "Why is {} important?",
            "Explain {}",
            "Explain {} in simple terms",
            "Explain {} to a child",
            "Write an essay about {}",
            "Write an email about {}",
            "Write a song about {}",
            "Write a paragraph about {}",
            "Write a Python script for {}",
            "Write a SQL query for {}",
            "Give me a recipe for {}",
            "Give me ideas for {}",
            "List five facts about {}",
            "Tell me about {}",
            "What do you think about {}?",
            "Recommend a book about {}",
            "Plan a trip to {}",
            "Compare {} and water",
            "Translate {} to Latin",
            "Summarize {}",
            "When was {} discovered?",
            "Where can I find {}?",
            "How many {} are there?",
            "Is {} good for me?",
            "What is the history of {}?",
            "I need advice about {}",
            "Can you help me with {}?",
            "Let's talk about {}",
        )
    )
    return fallback(vary(rng, form.format(thing)))


def _mixture(rng: Random, known: Sequence[str], junk: Sequence[str]) -> str:
    """Returns words of several known texts out of order, and at least one unknown word."""
    words = [word for text in rng.sample(known, 3) for word in text.split() if "<" not in word]
    chosen = rng.sample(words, min(len(words), rng.randint(2, 9)))
    chosen += [rng.choice(junk) for _ in range(rng.randint(1, 4))]
    rng.shuffle(chosen)
    return " ".join(chosen)


def _long_text(rng: Random, junk: Sequence[str]) -> str:
    """Returns a task followed by some lines of text that the stand-in cannot read."""
    task = rng.choice(
        (
            "Summarize this text:",
            "Fix this code:",
            "Translate this:",
            "Solve this problem:",
            "Review:",
        )
    )
    words = [rng.choice((*THINGS, *junk)) for _ in range(rng.randint(10, 40))]
    return f"{task}\n\n{' '.join(words)}."
