"""How the tokens of one sequence are chosen."""

from __future__ import annotations

import msgspec


class Sampling(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """How the tokens of one sequence are chosen. Travels to the engine process as it is.

    The order is that of the OpenAI and Hugging Face conventions: `repetition_penalty` (over prompt
    and output), `frequency_penalty` and `presence_penalty` (over output), `logit_bias`, then
    temperature, top_k, top_p, min_p. `temperature == 0` is greedy.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0 keeps every token."""
    min_p: float = 0.0
    seed: int | None = None
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    logprobs: int | None = None
    """None for no log-probabilities, else how many alternatives to return (0 to 20)."""
    stop_token_ids: tuple[int, ...] = ()
    """The sequence ends with the first of these; that token is the last one returned."""
    min_tokens: int = 0
    ignore_eos: bool = False
    """True: `stop_token_ids` do not stop (load tests)."""
    grammar: str | None = None
    """A structural tag (JSON) that constrains the output, or None."""
    prompt_logprobs: int | None = None
    """As `logprobs`, of the prompt's tokens: each given those before it, so not of the first."""
