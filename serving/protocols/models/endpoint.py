"""`GET /v1/models` and `GET /v1/models/{id}`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NotRequired

from starlette.types import Receive, Scope, Send
from typing_extensions import TypedDict

from serving.boundary.encoder.description import EncoderDescription
from serving.errors import ErrorKind, ServingError
from serving.generation.backend import Backend, unavailable
from serving.protocols.edge.answers import open_ended
from serving.protocols.edge.exchange import exchange_of
from serving.protocols.edge.operation import Operation
from serving.protocols.edge.replies import reply_json
from serving.settings import Settings

ROUTE = "models"


@open_ended
class Engine(TypedDict):
    """The engine that serves a model."""

    name: str
    runtime: str
    digest: str
    checkpoint: str
    revision: str
    stand_in: bool


@open_ended
class Model(TypedDict):
    """A model; the fields about its engine are there once the engine is known."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    type: Literal["chat", "embedding"]
    max_model_len: NotRequired[int]
    context_length: NotRequired[int]
    dimensions: NotRequired[int]
    """Of an encoder's vectors."""
    capabilities: NotRequired[dict[str, bool | list[str]]]
    engine: NotRequired[Engine | None]


@open_ended
class ModelList(TypedDict):
    """The names of the models."""

    object: Literal["list"]
    data: list[Model]


class Models:
    """Lists the names that the models of this server have, or describes one of them.

    What the engine's manifest says (its context, whether it is a stand-in for the real model) is
    there once the engine directory has been read, and what depends on the running engine while one
    runs. `encoder` is the model that makes embeddings, where there is one. `names` gives those of
    the language model as far as they are known.
    """

    def __init__(
        self,
        settings: Settings,
        backend: Callable[[], Backend | None],
        names: Callable[[], Sequence[str]],
        encoder: EncoderDescription | None,
        created: int,
    ) -> None:
        self._settings = settings
        self._backend = backend
        self._names = names
        self._encoder = encoder
        self._created = created

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request. Raises ServingError (MODEL_NOT_FOUND)."""
        exchange_of(scope, ROUTE)
        name = scope["path_params"].get("name")
        models = self._describe()
        if name is None:
            await reply_json(send, {"object": "list", "data": list(models.values())})
        elif name in models:
            await reply_json(send, models[name])
        elif not (names := self._names()):
            raise unavailable()
        else:
            raise ServingError(
                ErrorKind.MODEL_NOT_FOUND,
                f"There is no such model here; this server has {names[0]!r}.",
                param="model",
            )

    def _describe(self) -> dict[str, dict[str, object]]:
        """Returns every model by name."""
        described = self._describe_language_model()
        own = self._names()
        models = {name: self._named(name, "openai", own[0]) | described for name in own}
        if self._encoder is not None:
            described = _describe_encoder(self._encoder)
            names = self._settings.embeddings.served_model_names
            for name in names:
                owner = name.partition("/")[0] if "/" in name else "unknown"
                models[name] = self._named(name, owner, names[0]) | described
        return models

    def _named(self, name: str, owner: str, root: str) -> dict[str, object]:
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": owner,
            "root": root,
        }

    def _describe_language_model(self) -> dict[str, object]:
        backend = self._backend()
        described: dict[str, object] = {"type": "chat"}
        if backend is None:
            return described
        manifest = backend.manifest
        context_tokens = manifest.limits.max_seq_len
        described |= {"max_model_len": context_tokens, "context_length": context_tokens}
        described["capabilities"] = _capabilities(backend)
        described["engine"] = {
            "name": manifest.name,
            "runtime": manifest.runtime,
            "digest": manifest.digest,
            "checkpoint": manifest.model.repository,
            "revision": manifest.model.revision,
            "stand_in": manifest.model.stand_in,
        }
        return described


def _capabilities(backend: Backend) -> dict[str, object]:
    """Returns what can be asked of the model. False too where no engine runs that could."""
    ready = backend.pipeline.engine.ready
    running = () if ready is None else ready.capabilities
    return {
        "chat_completions": True,
        "responses": True,
        "completions": True,
        "messages": True,
        "embeddings": False,
        "streaming": True,
        "tools": True,
        "structured_outputs": "grammar" in running and backend.pipeline.constrains,
        "logprobs": "logprobs" in running,
        "vision": False,
        "reasoning_efforts": ["low", "medium", "high"],
    }


def _describe_encoder(encoder: EncoderDescription) -> dict[str, object]:
    return {
        "type": "embedding",
        "max_model_len": encoder.max_tokens,
        "context_length": encoder.max_tokens,
        "dimensions": encoder.dimensions,
        "capabilities": {"embeddings": True},
    }


def model_operations(models: Models) -> list[Operation]:
    """Returns the operations that list and describe models."""
    return [
        Operation("GET", "/v1/models", models, "List the names of the models", gives=ModelList),
        Operation("GET", "/v1/models/{name:path}", models, "Describe a model", gives=Model),
    ]
