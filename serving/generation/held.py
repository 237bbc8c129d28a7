"""Whether an answer is what its request holds it to, found from its events.

The grammar in the engine sees to it; this is the check that it did, before the answer counts as
whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from serving.events import (
    BuiltInCallStart,
    Content,
    Event,
    Reasoning,
    ToolCallArguments,
    ToolCallStart,
)
from serving.grammar.constraint import Constraint
from serving.grammar.fitting import misfit


class HeldAnswer:
    """Follows the answer of one choice: its calls, and its content as one text."""

    def __init__(self, constraint: Constraint) -> None:
        self._constraint = constraint
        self._forms = {tool.name: tool for tool in constraint.tools}
        self._content: list[str] = []
        self._call: str | None = None
        """The function that is being called."""
        self._arguments: list[str] = []
        self._calls = 0
        self._in_content = False

    def take(self, events: Sequence[Event]) -> str:
        """Takes the next events; returns what is wrong with a part that they end, "" for nothing.

        A client may act on a part once the next has begun, so it is not to see that it has.
        """
        wrong = ""
        for event in events:
            if isinstance(event, Content):
                wrong = wrong or self._end_call()
                self._in_content = True
                self._content.append(event.text)
            elif isinstance(event, ToolCallArguments):
                self._arguments.append(event.text)
            elif isinstance(event, Reasoning | ToolCallStart | BuiltInCallStart):
                wrong = wrong or self._end_part()
                self._calls += not isinstance(event, Reasoning)
                self._call = event.name if isinstance(event, ToolCallStart) else None
                self._arguments.clear()
        return wrong

    def end(self) -> str:
        """Returns what is wrong with the whole answer, "" for nothing."""
        if wrong := self._end_part():
            return wrong
        if self._calls:
            return ""
        if self._constraint.must_call:
            return "it makes no call"
        return self._wrong_content()

    def _end_part(self) -> str:
        wrong = self._end_call()
        if self._in_content:
            self._in_content = False
            wrong = wrong or self._wrong_content()
        return wrong

    def _end_call(self) -> str:
        name, self._call = self._call, None
        if name is None:
            return ""
        form = self._forms.get(name)
        if form is None:
            return "it calls a function that may not be called"
        if form.schema is None:
            return ""
        wrong = misfit("".join(self._arguments), form.schema)
        return wrong and f"the arguments of its call {wrong}"

    def _wrong_content(self) -> str:
        if self._constraint.schema is None:
            return ""
        wrong = misfit("".join(self._content), self._constraint.schema)
        return wrong and f"its content {wrong}"
