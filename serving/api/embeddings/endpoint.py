"""`POST /v1/embeddings`: texts or token ids to vectors, by the sentence encoder of the settings."""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope, Send

from serving.api.body import decode, require_json
from serving.api.connection import Connection
from serving.api.embeddings.answer import encode_answer
from serving.api.embeddings.schema import EmbeddingsRequest
from serving.api.exchange import Exchange, exchange_of
from serving.api.generation import Surroundings
from serving.api.limits import read_body
from serving.api.replies import reply
from serving.api.timeout import requested_seconds
from serving.errors import ErrorKind, ServingError
from serving.runtime.encoder.client import Encoder
from serving.runtime.encoder.description import EncoderDescription

ROUTE = "embeddings"

_THREAD_BYTES = 64 * 1024
"""An answer with more bytes of vectors is encoded beside the event loop."""


class Embeddings:
    """The endpoint, an ASGI application. `encoder` is None where none is configured."""

    def __init__(self, around: Surroundings, encoder: Encoder | None) -> None:
        self._around = around
        self._encoder = encoder

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request. Raises ServingError."""
        around, settings = self._around, self._around.settings
        exchange = exchange_of(scope, ROUTE)
        require_json(scope)
        body = await read_body(receive)
        slow_client_seconds = settings.deadlines.slow_client_seconds
        async with Connection(receive, send, around.clock, slow_client_seconds) as connection:
            seconds = settings.deadlines.total_seconds
            seconds = min(seconds, requested_seconds(scope) or seconds)
            if len(body) > settings.limits.thread_body_bytes:
                request = await asyncio.to_thread(decode, body, EmbeddingsRequest, settings.limits)
            else:
                request = decode(body, EmbeddingsRequest, settings.limits)
            around.count_unknown(len(request.model_extra or ()))
            left_seconds = exchange.accepted + seconds - around.clock()
            try:
                async with asyncio.timeout(left_seconds):
                    answer = await self._answer(request, exchange)
            except TimeoutError:
                raise ServingError(
                    ErrorKind.DEADLINE, "The request took longer than it may in total."
                ) from None
            await reply(connection.send, 200, answer, b"application/json")

    async def _answer(self, request: EmbeddingsRequest, exchange: Exchange) -> bytes:
        encoder = self._require_model(request.model)
        dimensions = self._dimensions(request, encoder.description)
        _require_known_ids(request, encoder.description)
        cut = request.truncate_prompt_tokens
        found = await encoder.encode(
            request.input,
            dimensions=dimensions,
            truncate_tokens=encoder.description.max_tokens if cut == -1 else cut,
        )
        exchange.prompt_tokens = found.tokens
        as_base64 = request.encoding_format == "base64"

        def encode() -> bytes:
            pieces = encode_answer(found.vectors, found.tokens, request.model, as_base64=as_base64)
            return b"".join(pieces)

        large = len(found.vectors) * 4 * dimensions > _THREAD_BYTES
        return await asyncio.to_thread(encode) if large else encode()

    def _require_model(self, name: str) -> Encoder:
        """Returns the encoder. Raises ServingError (MODEL_NOT_FOUND) when it is not `name`."""
        names = self._around.settings.embeddings.served_model_names
        if self._encoder is not None and name in names:
            return self._encoder
        if self._encoder is None:
            message = "This server makes no embeddings: no encoder is configured."
        elif (known := self._around.known()) is not None and name in known.names:
            message = f"{name!r} makes no embeddings; on this server {names[0]!r} does."
        else:
            message = f"There is no such model for embeddings here; this server has {names[0]!r}."
        raise ServingError(ErrorKind.MODEL_NOT_FOUND, message, param="model")

    def _dimensions(self, request: EmbeddingsRequest, description: EncoderDescription) -> int:
        """Returns how long the vectors are to be. Raises ServingError (UNSUPPORTED)."""
        asked = request.dimensions or description.dimensions
        known = {*self._around.settings.embeddings.shorter_dimensions, description.dimensions}
        if asked not in known:
            listed = " or ".join(map(str, sorted(known)))
            raise ServingError(
                ErrorKind.UNSUPPORTED,
                f"'dimensions' must be {listed}: this encoder was not trained for vectors that are "
                "cut anywhere else.",
                param="dimensions",
            )
        return asked


def _require_known_ids(request: EmbeddingsRequest, description: EncoderDescription) -> None:
    """Raises ServingError (INVALID_VALUE) for token ids that the encoder does not have."""
    size = description.architecture.vocab_size
    for place, item in enumerate(request.input):
        if isinstance(item, list) and not (min(item) >= 0 and max(item) < size):
            raise ServingError(
                ErrorKind.INVALID_VALUE,
                f"Token ids are those of the encoder, from 0 to {size - 1}. For any other "
                "tokenizer send the text.",
                param=f"input[{place}]",
            )
