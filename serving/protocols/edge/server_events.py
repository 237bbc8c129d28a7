"""Server-sent events as OpenAI sends them: data alone, and a mark at the end."""

from __future__ import annotations

import msgspec

from serving.errors import ServingError

DONE = b"data: [DONE]\n\n"


def encode_error(error: ServingError) -> bytes:
    """Returns the event that ends a stream which has failed; no `[DONE]` follows it."""
    return b"data: " + msgspec.json.encode(error.body) + b"\n\n"
