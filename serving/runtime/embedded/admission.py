"""What a sequence must be for the engine to take it."""

from __future__ import annotations

from serving.runtime.messages import Generate


def refusal(request: Generate, vocab_size: int, max_seq_len: int) -> str | None:
    """Returns why a request cannot run, for its sender to read, or None when it can."""
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
        return "This engine cannot constrain its output to a grammar."
    return None
