"""Questions of arithmetic and science with known answers, asked one token at a time.

The precision gate's other questions only tell whether an engine says what its reference says. These
tell which of the two is right where they differ. The engine is never left to answer: it is asked
for each token of the known answer, after the ones before.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine_build.failure import BuildError, ExitCode
from serving.harmony.conversation import Assistant, Conversation, Developer, System, User
from serving.harmony.render import render, render_completion
from serving.harmony.vocabulary import MESSAGE, Vocabulary, VocabularyError

PATH = Path(__file__).with_name("known_answers.json")
"""Pairs of a question and its answer."""

INSTRUCTIONS = "Answer with the result alone: a number, a name or a formula. No sentence, no unit."


@dataclass(frozen=True, slots=True)
class KnownToken:
    """What stands before a token of a known answer, and the token. The last one ends the answer."""

    context: tuple[int, ...]
    expected: int


def known_tokens(ranks: Path) -> list[KnownToken]:
    """Returns every token of every answer, in a fixed order. Raises BuildError."""
    try:
        vocabulary = Vocabulary.load(ranks)
    except VocabularyError as error:
        raise BuildError(ExitCode.DATA, str(error)) from None
    found: list[KnownToken] = []
    for question, answer in msgspec.json.decode(PATH.read_bytes(), type=list[tuple[str, str]]):
        asked = Conversation(
            system=System(reasoning_effort="low", current_date="2026-01-31"),
            turns=(Developer(instructions=INSTRUCTIONS), User(text=question)),
        )
        whole = render_completion(Assistant(content=answer), vocabulary)
        begin = whole.index(MESSAGE) + 1
        prompt = render(asked, vocabulary)
        found += (KnownToken((*prompt, *whole[:at]), whole[at]) for at in range(begin, len(whole)))
    return found
