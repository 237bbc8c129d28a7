"""What happens to a job, in a form that knows no protocol.

The pipeline yields `(choice, event)` pairs; presenters turn them into OpenAI JSON. The text in
events is whole Unicode: a partial UTF-8 sequence never leaves the parser.
"""

from __future__ import annotations

from typing import Literal

import msgspec

FinishReason = Literal["stop", "length", "tool_calls"]
Channel = Literal["analysis", "commentary"]


class Reasoning(msgspec.Struct, frozen=True, gc=False):
    """More text of the analysis channel."""

    text: str


class TokenLogprob(msgspec.Struct, frozen=True, gc=False):
    """The natural logarithm of the probability of one sampled token and of its alternatives.

    `top` holds (token id, logprob), most likely first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class Content(msgspec.Struct, frozen=True, gc=False):
    """More text for the user: the final channel, or a preamble in commentary.

    `logprobs` covers the tokens that made this text, when the job asked for them.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] | None = None


class PromptLogprobs(msgspec.Struct, frozen=True, gc=False):
    """Of the next tokens of the prompt, from its second on, when the job asked for them."""

    logprobs: tuple[TokenLogprob, ...]


class ToolCallStart(msgspec.Struct, frozen=True, gc=False):
    """The model has begun a call of the function `name`; `index` counts the calls of a choice."""

    index: int
    name: str


class ToolCallArguments(msgspec.Struct, frozen=True, gc=False):
    """More text of the arguments of call `index`: JSON as the model wrote it, unchecked."""

    index: int
    text: str


class BuiltInCallStart(msgspec.Struct, frozen=True, gc=False):
    """The model has begun a call of a built-in tool; its input comes as `ToolCallArguments`.

    `name` is the recipient: `python`, or `browser.search` and the like. What the tool says goes
    back on the same `channel`.
    """

    index: int
    name: str
    channel: Channel = "analysis"


class BuiltInCallRunning(msgspec.Struct, frozen=True, gc=False):
    """The input of the built-in call that was begun last is whole; its executor has it now."""


class BuiltInCallEnded(msgspec.Struct, frozen=True, gc=False):
    """The built-in call that was begun last has come to its end.

    `output` is what the model is told. `outcome`: the executor did it; it failed, or could not be
    had; the call was not made, because no more were allowed.
    """

    output: str
    outcome: Literal["completed", "failed", "refused"]


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Token counts of one choice. `completion_tokens` includes control and reasoning tokens."""

    prompt_tokens: int
    completion_tokens: int
    reasoning_tokens: int
    cached_tokens: int


class Finished(msgspec.Struct, frozen=True, gc=False):
    """The last event of a choice."""

    reason: FinishReason
    usage: Usage
    stop_string: str | None = None
    """The stop string of the request that ended the choice, if one did."""
    tokens: tuple[int, ...] = ()
    """What was generated, in full, for a job that may call built-in tools; else nothing."""


Event = (
    Reasoning
    | Content
    | PromptLogprobs
    | ToolCallStart
    | ToolCallArguments
    | BuiltInCallStart
    | BuiltInCallRunning
    | BuiltInCallEnded
    | Finished
)
ChoiceEvent = tuple[int, Event]
