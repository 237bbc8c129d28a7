"""`POST /v1/embeddings`: texts or token ids to vectors, by the sentence encoder of the settings."""

from __future__ import annotations

from serving.boundary.encoder.client import Encoder
from serving.boundary.encoder.description import EncoderDescription
from serving.errors import ErrorKind, ServingError
from serving.protocols.edge.body import decode
from serving.protocols.edge.computation import Computation
from serving.protocols.edge.exchange import Exchange
from serving.protocols.edge.generation import Services
from serving.protocols.edge.operation import Operation
from serving.protocols.embeddings.answer import encode_answer
from serving.protocols.embeddings.answers import EmbeddingList
from serving.protocols.embeddings.schema import EmbeddingsRequest
from serving.settings import Settings

ROUTE = "embeddings"


def embedding_operations(services: Services, encoder: Encoder | None) -> list[Operation]:
    """Returns the operations of embeddings."""
    return [
        Operation(
            "POST",
            "/v1/embeddings",
            _embeddings(services, encoder),
            "Make vectors of texts",
            gives=EmbeddingList,
            takes=(EmbeddingsRequest,),
            names=services.settings.embeddings.served_model_names,
        )
    ]


def _embeddings(services: Services, encoder: Encoder | None) -> Computation:
    """Returns the endpoint. `encoder` is None where none is configured."""
    settings = services.settings

    async def answer(body: bytes, exchange: Exchange) -> bytes:
        request = await services.embedding.run_sized(
            len(body), decode, body, EmbeddingsRequest, settings.limits
        )
        services.count_unknown(len(request.model_extra or ()))
        used = _require_model(request.model, encoder, services)
        dimensions = _dimensions(request, used.description, settings)
        _require_known_ids(request, used.description)
        cut = request.truncate_prompt_tokens
        found = await used.encode(
            request.input,
            dimensions=dimensions,
            truncate_tokens=used.description.max_tokens if cut == -1 else cut,
        )
        exchange.prompt_tokens = found.tokens
        as_base64 = request.encoding_format == "base64"

        def encode() -> bytes:
            pieces = encode_answer(found.vectors, found.tokens, request.model, as_base64=as_base64)
            return b"".join(pieces)

        return await services.embedding.run_sized(len(found.vectors) * 4 * dimensions, encode)

    return Computation(ROUTE, services, answer)


def _require_model(name: str, encoder: Encoder | None, services: Services) -> Encoder:
    """Returns the encoder. Raises ServingError (MODEL_NOT_FOUND) when it is not `name`."""
    names = services.settings.embeddings.served_model_names
    if encoder is not None and name in names:
        return encoder
    if encoder is None:
        message = "This server makes no embeddings: no encoder is configured."
    elif (known := services.known()) is not None and name in known.names:
        message = f"{name!r} makes no embeddings; on this server {names[0]!r} does."
    else:
        message = f"There is no such model for embeddings here; this server has {names[0]!r}."
    raise ServingError(ErrorKind.MODEL_NOT_FOUND, message, param="model")


def _dimensions(
    request: EmbeddingsRequest, description: EncoderDescription, settings: Settings
) -> int:
    """Returns how long the vectors are to be. Raises ServingError (UNSUPPORTED)."""
    asked = request.dimensions or description.dimensions
    known = {*settings.embeddings.shorter_dimensions, description.dimensions}
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
