"""`GET /v1/models` and `GET /v1/models/{id}`."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import Receive, Scope, Send

from serving.api.exchange import exchange_of
from serving.api.replies import reply_json
from serving.backend import Backend
from serving.errors import ErrorKind, ServingError
from serving.settings import Settings

ROUTE = "models"


class Models:
    """Lists the names that the one model of this server has, or describes one of them.

    What the engine's manifest says (its context, whether it is a stand-in for the real model) is
    there once the engine directory has been read.
    """

    def __init__(
        self, settings: Settings, backend: Callable[[], Backend | None], created: int
    ) -> None:
        self._settings = settings
        self._backend = backend
        self._created = created

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request. Raises ServingError (MODEL_NOT_FOUND)."""
        exchange_of(scope, ROUTE)
        name = scope["path_params"].get("name")
        if name is None:
            models = [self._describe(name) for name in self._settings.served_model_names]
            await reply_json(send, {"object": "list", "data": models})
        elif name in self._settings.served_model_names:
            await reply_json(send, self._describe(name))
        else:
            raise ServingError(
                ErrorKind.MODEL_NOT_FOUND,
                f"There is no such model here; this server has {self._settings.model!r}.",
                param="model",
            )

    def _describe(self, name: str) -> dict[str, object]:
        described: dict[str, object] = {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "openai",
            "root": self._settings.model,
        }
        backend = self._backend()
        if backend is not None:
            manifest = backend.manifest
            described["max_model_len"] = manifest.limits.max_seq_len
            described["engine"] = {
                "name": manifest.name,
                "runtime": manifest.runtime,
                "digest": manifest.digest,
                "checkpoint": manifest.model.repository,
                "revision": manifest.model.revision,
                "stand_in": manifest.model.stand_in,
            }
        return described
