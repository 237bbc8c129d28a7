"""One validated request. Only code that has checked a request can make a job."""

from __future__ import annotations

import msgspec

from serving.boundary.sampling import Sampling
from serving.control.callers import Caller
from serving.control.lanes import Lane
from serving.grammar.constraint import Constraint


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
