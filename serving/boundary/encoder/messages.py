"""The typed messages between the API process and the encoder process, framed as the engine's are.

A request is answered in parts, as its texts come through in batches with those of others.
"""

from __future__ import annotations

import msgspec

from serving.boundary.messages import Fatal

Input = str | list[int]
"""A text, or its token ids."""

# --- API process -> encoder process ------------------------------------------------------------


class Encode(msgspec.Struct, frozen=True, tag="encode"):
    """Asks for one vector for each of `inputs`.

    `dimensions` is how much of a vector is wanted, from its beginning. With `truncate_tokens` a
    longer input is cut to so many tokens, those around it included; without, it is refused.
    """

    id: int
    inputs: list[Input]
    dimensions: int
    truncate_tokens: int | None = None


class Drop(msgspec.Struct, frozen=True, tag="drop"):
    """Forgets what is left of a request, known or not; `Dropped` is the answer."""

    id: int


ToEncoder = Encode | Drop

# --- encoder process -> API process ------------------------------------------------------------


class Loaded(msgspec.Struct, frozen=True, tag="loaded"):
    """The encoder can be asked. Sent once, first."""

    load_seconds: float


class Part(msgspec.Struct, frozen=True, tag="part"):
    """The vectors of some inputs of a request.

    `vectors` holds them one after the other in the order of `places`, as little-endian float32;
    `tokens` is how many tokens these inputs had.
    """

    id: int
    places: list[int]
    tokens: int
    vectors: bytes


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """Says that a request is not worked on: the input at `place`, or all together, has too many
    tokens (`place` -1)."""

    id: int
    place: int
    tokens: int


class Dropped(msgspec.Struct, frozen=True, tag="dropped"):
    """Says that nothing is left of a request that was to be dropped."""

    id: int


FromEncoder = Loaded | Part | Refused | Dropped | Fatal
