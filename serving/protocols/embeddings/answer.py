"""Vectors as OpenAI's JSON."""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Sequence

import msgspec


def encode_answer(
    vectors: Sequence[bytes], tokens: int, model: str, *, as_base64: bool
) -> list[bytes]:
    """Returns the body of an answer, in pieces: vectors are little-endian float32.

    In pieces, because a thread that makes one piece keeps the interpreter for itself.
    """
    usage = msgspec.json.encode({"prompt_tokens": tokens, "total_tokens": tokens})
    pieces = [b'{"object":"list","data":[']
    for index, vector in enumerate(vectors):
        embedding = base64.b64encode(vector).decode() if as_base64 else _numbers(vector)
        entry = {"object": "embedding", "index": index, "embedding": embedding}
        pieces += (b"," if index else b"", msgspec.json.encode(entry))
    pieces += (b'],"model":', msgspec.json.encode(model), b',"usage":', usage, b"}")
    return pieces


def _numbers(vector: bytes) -> list[float]:
    values = array("f", vector)
    if sys.byteorder == "big":
        values.byteswap()
    return values.tolist()
