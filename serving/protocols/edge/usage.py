"""What was counted, in the words of OpenAI's Completions."""

from __future__ import annotations

from collections.abc import Iterable

from typing_extensions import TypedDict

from serving import events


class PromptTokensDetails(TypedDict):
    """Of the prompt's tokens."""

    cached_tokens: int


class CompletionTokensDetails(TypedDict):
    """Of the generated tokens."""

    reasoning_tokens: int


class Usage(TypedDict):
    """What was counted."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


def usage_object(*prompts: Iterable[events.Usage]) -> Usage:
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
