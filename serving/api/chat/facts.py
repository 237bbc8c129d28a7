"""What the chunks and the whole answer of one chat request have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from serving.events import TokenLogprob, Usage
from serving.harmony.vocabulary import Vocabulary

LEAST_LOGPROB = -9999.0
"""Stands for the logarithm of 0, which JSON has no number for; OpenAI's value."""


@dataclass(frozen=True, slots=True)
class ChatFacts:
    """The identity of one response. `service_tier` is None when the request did not ask."""

    id: str
    created: int
    model: str
    fingerprint: str
    choices: int
    service_tier: str | None
    vocabulary: Vocabulary
    make_call_id: Callable[[], str]


def logprob_entries(
    logprobs: Iterable[TokenLogprob], vocabulary: Vocabulary
) -> list[dict[str, object]]:
    """Returns OpenAI's `logprobs.content`: each token's text, bytes, value and alternatives."""
    return [
        {
            **_entry(logprob.token, logprob.logprob, vocabulary),
            "top_logprobs": [_entry(token, value, vocabulary) for token, value in logprob.top],
        }
        for logprob in logprobs
    ]


def _entry(token: int, logprob: float, vocabulary: Vocabulary) -> dict[str, object]:
    piece = vocabulary.token_bytes(token)
    return {
        "token": piece.decode("utf-8", "replace"),
        "logprob": max(logprob, LEAST_LOGPROB),
        "bytes": list(piece),
    }


def usage_object(*prompts: Iterable[Usage]) -> dict[str, object]:
    """Returns OpenAI's `usage`, from the usages of the choices of each prompt.

    A prompt counts once, what was generated adds up. `cached_tokens` of a prompt is the least of
    its choices': a later one finds the first one's prompt cached.
    """
    counted = [list(usages) for usages in prompts]
    choices = [usage for usages in counted for usage in usages]
    prompt_tokens = sum(max((usage.prompt_tokens for usage in one), default=0) for one in counted)
    cached_tokens = sum(min((usage.cached_tokens for usage in one), default=0) for one in counted)
    completion_tokens = sum(usage.completion_tokens for usage in choices)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
        "completion_tokens_details": {
            "reasoning_tokens": sum(usage.reasoning_tokens for usage in choices)
        },
    }
