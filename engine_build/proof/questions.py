"""What the precision gate asks: conversations of the kinds that the model is used for.

The golden prompts, and short ones of other kinds, because a number format that is too coarse shows
in one kind of text sooner than in another.
"""

from __future__ import annotations

from pathlib import Path

from engine_build.failure import BuildError, ExitCode
from engine_build.proof import golden_prompts
from serving.harmony.conversation import Conversation, Developer, System, User
from serving.harmony.render import render
from serving.harmony.vocabulary import Vocabulary, VocabularyError


def _asked(text: str, instructions: str = "") -> Conversation:
    turns = (Developer(instructions=instructions),) if instructions else ()
    return Conversation(
        system=System(reasoning_effort="low", current_date="2026-01-31"),
        turns=(*turns, User(text=text)),
    )


CONVERSATIONS = {
    "sum": _asked("What is 17 * 23? Show the steps."),
    "code": _asked("Write a Python function that returns the n-th Fibonacci number."),
    "query": _asked("Write SQL that counts the orders of each customer in table orders."),
    "json": _asked(
        "Berlin has 3.7 million inhabitants.", "Answer with JSON: a city and its population."
    ),
    "german": _asked("Warum ist der Himmel blau?"),
    "chinese": _asked("请用一句话解释什么是机器学习。"),
    "list": _asked("Name the planets of the solar system, from the Sun outwards."),
    "story": _asked("Begin a story about a lighthouse keeper."),
    "weather": _asked("Is it going to rain in London today?"),
}


def prompts(ranks: Path) -> dict[str, list[int]]:
    """Returns the token ids of every question by name, in a fixed order. Raises BuildError."""
    try:
        vocabulary = Vocabulary.load(ranks)
    except VocabularyError as error:
        raise BuildError(ExitCode.DATA, str(error)) from None
    asked = golden_prompts.CONVERSATIONS | CONVERSATIONS
    return {name: render(talk, vocabulary) for name, talk in asked.items()}
