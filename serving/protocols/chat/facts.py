"""What the chunks and the whole answer of one chat request have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from serving.harmony.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class ChatFacts:
    """The identity of one response. `service_tier` is None when the request did not ask."""

    id: str
    created: int
    model: str
    fingerprint: str
    choices: int
    service_tier: Literal["default"] | None
    vocabulary: Vocabulary
    make_call_id: Callable[[], str]
