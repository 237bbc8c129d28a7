"""What a caller wants, in no protocol's words. Every protocol builds this; `prepare` checks it.

Each part carries the place where the client's own request says it, such as `tools[0].function`,
so that an error about it is born in the protocol's words.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from serving.boundary.sampling import Sampling
from serving.control.callers import Caller
from serving.control.lanes import Lane
from serving.harmony.built_in import recipients
from serving.harmony.conversation import BuiltInTool, ReasoningEffort, Turn


class Function(msgspec.Struct, frozen=True, kw_only=True):
    """A function that the model is offered. `parameters` is a JSON schema, None for no arguments.

    The arguments of a `strict` one are held to its schema.
    """

    name: str
    description: str
    parameters: dict[str, Any] | None
    strict: bool
    place: str
    parameters_place: str


class ToolChoice(msgspec.Struct, frozen=True, kw_only=True):
    """What the model may call, or must. `only` holds the functions that are left, with the place
    that names each; None leaves all."""

    mode: Literal["auto", "required", "none"]
    only: tuple[tuple[str, str], ...] | None = None


class AnswerFormat(msgspec.Struct, frozen=True, kw_only=True):
    """JSON that the answer is: any object, or what fits `schema`, which the model is told of."""

    name: str
    schema: dict[str, Any] | None
    place: str
    schema_place: str


class BuiltInUse(msgspec.Struct, frozen=True):
    """Which built-in tools the model may call, and what the tool choice says of them."""

    tools: tuple[BuiltInTool, ...] = ()
    """Those that the model is shown."""
    callable: frozenset[str] = frozenset()
    """Recipients that it may call."""
    must_call: bool = False
    """It must make a call that it may make, before it answers."""
    alone: bool = False
    """It may call no function."""
    once: bool = False
    """After the forced call, all that the model is shown may be called."""

    @property
    def limits(self) -> bool:
        """Whether something that the model is shown may not be called, or something must be."""
        return self.must_call or self.alone or self.callable != recipients(self.tools)

    def freed(self) -> BuiltInUse:
        """Returns what holds after the forced call."""
        if self.once:
            return BuiltInUse(self.tools, recipients(self.tools))
        return replace(self, must_call=False)


NO_BUILT_IN = BuiltInUse()


class Dialogue(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation that the model goes on with, and what its answer is held to."""

    turns: tuple[Turn, ...]
    effort: ReasoningEffort | None = None
    """None: the service's own."""
    functions: tuple[Function, ...] = ()
    built_in: BuiltInUse = NO_BUILT_IN
    tool_choice: ToolChoice | None = None
    """None where the request says nothing."""
    format: AnswerFormat | None = None
    may_shorten: bool = False
    """The oldest turns may be left out, where all do not fit the context."""


Prompt = Dialogue | str | list[int]
"""A conversation; or a text or its token ids, which are gone on with as they are."""


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One generation that a caller asks for."""

    id: str
    caller: Caller
    route: str
    """The metric label: a word of ours."""
    model: str
    prompt: Prompt
    prompt_place: str
    sampling: Sampling
    """Its `max_tokens` and grammar are not set yet."""
    max_tokens: int | None = None
    """None: what the context leaves, or `default_max_tokens` where that is less."""
    default_max_tokens: int | None = None
    logprobs_place: str = "logprobs"
    choices: int = 1
    stop: tuple[str, ...] = ()
    lane: Lane = Lane.P1
    deadline_seconds: float | None = None
    """From acceptance to the last token; None for the service's own limit."""
