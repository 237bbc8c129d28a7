"""Log-probabilities of tokens in the words of OpenAI."""

from __future__ import annotations

from collections.abc import Iterable

from typing_extensions import TypedDict

from serving import events
from serving.harmony.vocabulary import Vocabulary

LEAST_LOGPROB = -9999.0
"""Stands for the logarithm of 0, which JSON has no number for; OpenAI's value."""


class TokenAlternative(TypedDict):
    """A token that could have come, with its natural logarithm."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TokenAlternative):
    """A token that came."""

    top_logprobs: list[TokenAlternative]


class ChoiceLogprobs(TypedDict):
    """Of the content's tokens."""

    content: list[TokenLogprob]
    refusal: None


def logprob_entries(
    logprobs: Iterable[events.TokenLogprob], vocabulary: Vocabulary
) -> list[TokenLogprob]:
    """Returns `logprobs.content`: each token's text, bytes, value and alternatives."""
    return [
        {
            **_entry(logprob.token, logprob.logprob, vocabulary),
            "top_logprobs": [_entry(token, value, vocabulary) for token, value in logprob.top],
        }
        for logprob in logprobs
    ]


def _entry(token: int, logprob: float, vocabulary: Vocabulary) -> TokenAlternative:
    piece = vocabulary.token_bytes(token)
    return {
        "token": piece.decode("utf-8", "replace"),
        "logprob": max(logprob, LEAST_LOGPROB),
        "bytes": list(piece),
    }
