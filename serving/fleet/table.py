"""The engines of this service, found by the names that clients use."""

from __future__ import annotations

from collections.abc import Callable

from serving.errors import ErrorKind, ServingError
from serving.generation.backend import Backend


class Fleet:
    """One engine, under every name. `backend` returns it, or raises ServingError without it."""

    def __init__(self, backend: Callable[[], Backend]) -> None:
        self._backend = backend

    def find(self, name: str | None) -> Backend:
        """Returns the engine of a name, of no name the first. Raises ServingError without one."""
        engine = self._backend()
        if name is None or name in engine.names:
            return engine
        raise ServingError(
            ErrorKind.MODEL_NOT_FOUND,
            f"There is no such model here; this server has {engine.model!r}.",
            param="model",
        )
