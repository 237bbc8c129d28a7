"""What a sequence must be for the engine to take it."""

from __future__ import annotations

from serving.boundary.messages import Generate
from serving.boundary.sampling import Sampling
from serving.grammar.core import STOP_TOKENS


def refusal(
    request: Generate, vocab_size: int, max_seq_len: int, *, constrains: bool = False
) -> str | None:
    """Returns why a request cannot run, for its sender to read, or None when it can.

    `constrains`: whether the engine can follow a grammar.
    """
    prompt = request.prompt
    if not prompt:
        return "The prompt is empty."
    if len(prompt) >= max_seq_len:
        return (
            f"The prompt has {len(prompt)} tokens; with room for one more this engine takes "
            f"{max_seq_len - 1}."
        )
    if min(prompt) < 0 or max(prompt) >= vocab_size:
        return f"The prompt has a token outside 0 to {vocab_size - 1}."
    if request.sampling.max_tokens < 1:
        return "max_tokens is less than 1."
    if request.sampling.grammar is not None:
        return _grammar_refusal(request.sampling, constrains)
    return None


def _grammar_refusal(sampling: Sampling, constrains: bool) -> str | None:
    if not constrains:
        return "This engine cannot constrain its output to a grammar."
    if sampling.ignore_eos or sampling.min_tokens:
        return "ignore_eos and min_tokens cannot be combined with a grammar, which has an end."
    if not set(STOP_TOKENS) <= set(sampling.stop_token_ids):
        return "With a grammar, each token that can follow its end must stop the sequence."
    return None
