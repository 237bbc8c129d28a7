"""Events as one `response` object."""

from __future__ import annotations

from collections.abc import Callable

from serving.events import ChoiceEvent
from serving.protocols.edge.presenters import Whole
from serving.protocols.responses.object import Body, ResponseObject
from serving.protocols.responses.output import Output


class ResponseAnswer(Whole):
    """Collects the events of one response."""

    def __init__(self, response: ResponseObject, output: Output, now: Callable[[], float]) -> None:
        self._response = response
        self._output = output
        self._now = now

    def add(self, events: list[ChoiceEvent]) -> None:
        """Takes the next events."""
        self._output.add(events)

    def body(self) -> Body:
        """Returns the object. The output must have finished."""
        return self._response.ended(self._output, self._now())
