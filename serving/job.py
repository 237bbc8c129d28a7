"""One validated request. Only code that has checked a request can make a job."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import msgspec

from serving.control.callers import Caller


class Lane(IntEnum):
    """A priority class. A lower number is served first."""

    P0 = 0
    P1 = 1
    P2 = 2


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


class ToolForm(msgspec.Struct, frozen=True, kw_only=True):
    """A function that may be called; `schema` constrains its arguments, None leaves them free."""

    name: str
    schema: dict[str, Any] | None


class Constraint(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer must be. `tools` and the recipients in `built_in` may be called; `must_call`
    rules the final message out; `limits_tools` says that others were shown to the model, and may
    not be called; `schema` constrains the final message, None leaves it free."""

    tools: tuple[ToolForm, ...] = ()
    built_in: tuple[str, ...] = ()
    must_call: bool = False
    limits_tools: bool = False
    schema: dict[str, Any] | None = None

    @property
    def binds(self) -> bool:
        """False when any answer will do."""
        strict = any(tool.schema is not None for tool in self.tools)
        return self.must_call or self.limits_tools or strict or self.schema is not None


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A request that may run: rendered to token ids, checked against the engine's limits.

    `prompt` is shared by all `choices`; choice i samples with `seed + i` when there is a seed.
    """

    id: str
    prompt: list[int]
    sampling: Sampling
    choices: int = 1
    stop: tuple[str, ...] = ()
    """Strings that end the visible content; the match itself is not shown."""
    tools: frozenset[str] = frozenset()
    """Names of the functions that the model may call."""
    built_in: frozenset[str] = frozenset()
    """Recipients of the built-in tools that the model may call: `python`, `browser.search`."""
    held: Constraint | None = None
    """What the answer is held to: `sampling.grammar` says the same to the engine."""
    grammar_param: str | None = None
    """The request's field that asked for it, for an error about it to name."""
    later_held: Constraint | None = None
    """What the answer is held to after a call of a built-in tool."""
    harmony: bool = True
    """False: the output is plain text (raw completions)."""
    begun: bool = False
    """True: goes on with a response that has begun, which is not refused now for a full line."""
    lane: Lane = Lane.P1
    caller: Caller
    route: str = "chat.completions"
    deadline_seconds: float | None = None
    """Time from acceptance to the last token; None for the service's own limit."""
