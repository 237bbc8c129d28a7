"""What serves requests once the engine is known: facts, vocabulary, pipeline."""

from __future__ import annotations

from dataclasses import dataclass

from serving.boundary.engine import Engine
from serving.boundary.messages import Ready
from serving.errors import ErrorKind, ServingError
from serving.generation.pipeline import Pipeline
from serving.harmony.vocabulary import Vocabulary

RETRY_AFTER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Backend:
    """One engine and what turns requests into work for it."""

    manifest: Engine
    vocabulary: Vocabulary
    pipeline: Pipeline
    system_date: str | None
    """The date that the system message of every conversation has."""
    names: tuple[str, ...]
    """Under which clients may ask for the model."""

    @property
    def model(self) -> str:
        """The canonical name of the model, the one that responses carry."""
        return self.names[0]

    def ready(self) -> Ready:
        """Returns the facts of the running engine. Raises ServingError while none runs."""
        ready = self.pipeline.engine.ready
        if ready is None:
            raise self.pipeline.engine.unavailable()
        return ready

    @property
    def fingerprint(self) -> str:
        """What changes when anything that makes the answers changes: `fp_` and part of a hash."""
        return f"fp_{self.manifest.digest[:10]}"


def unavailable() -> ServingError:
    """Returns what a request is told until the engine is known."""
    return ServingError(
        ErrorKind.ENGINE_UNAVAILABLE,
        "The engine is loading. Try again later.",
        retry_after_seconds=RETRY_AFTER_SECONDS,
    )
