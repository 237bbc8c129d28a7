"""The two kinds of presenters: what makes a protocol's response of events."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from serving.errors import ServingError
from serving.events import ChoiceEvent


class Whole(ABC):
    """Collects the events of a response that is sent at once."""

    @abstractmethod
    def add(self, events: list[ChoiceEvent]) -> None:
        """Takes the next events."""

    @abstractmethod
    def body(self) -> Mapping[str, object]:
        """Returns the JSON object of the response, once every choice has finished."""


class Streamed(ABC):
    """Encodes the events of a response as server-sent events, in order."""

    @abstractmethod
    def begin(self) -> bytes:
        """Returns what comes before the first event."""

    @abstractmethod
    def encode(self, events: list[ChoiceEvent]) -> bytes:
        """Returns what these events become."""

    @abstractmethod
    def end(self) -> bytes:
        """Returns what follows the last event."""

    @abstractmethod
    def fail(self, error: ServingError) -> bytes:
        """Returns the end of a stream which has failed."""
