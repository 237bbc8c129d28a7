"""The addresses of the API."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Protocol

from starlette.routing import BaseRoute, Route

from serving.boundary.encoder.client import Encoder
from serving.control.drain import Drain
from serving.control.workers import Workers
from serving.fleet.table import Fleet
from serving.generation.backend import Backend
from serving.protocols.chat.endpoint import chat_operations
from serving.protocols.completions.endpoint import completion_operations
from serving.protocols.conversations.routes import conversation_operations
from serving.protocols.edge.generation import Services
from serving.protocols.edge.missing import Missing
from serving.protocols.edge.operation import Operation, make_routes
from serving.protocols.embeddings.endpoint import embedding_operations
from serving.protocols.messages.endpoint import message_operations
from serving.protocols.models.endpoint import Models, model_operations
from serving.protocols.openapi.endpoint import description_operation
from serving.protocols.probes.endpoint import State, probe_operations
from serving.protocols.responses.background import Background
from serving.protocols.responses.routes import response_operations
from serving.protocols.tokens.endpoint import token_operations
from serving.settings import Settings
from serving.store.stores import Stores
from serving.telemetry.metrics import Metrics
from serving.tools.executors import Toolbox


class Serving(State, Protocol):
    """The service as the routes see it."""

    @property
    def known(self) -> Backend | None:
        """What serves requests, or None until the engine directory has been read."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """Under which clients may ask for the model; none until that is known."""
        ...

    def backend(self) -> Backend:
        """Returns what serves requests. Raises ServingError without it."""
        ...

    async def metrics(self) -> bytes:
        """Returns the metrics as text."""
        ...


def all_routes(
    settings: Settings,
    service: Serving,
    metrics: Metrics,
    stores: Stores,
    background: Background,
    toolbox: Toolbox,
    encoder: Encoder | None,
    drain: Drain,
    *,
    clock: Callable[[], float],
    now: Callable[[], float],
    make_id: Callable[[], str],
) -> tuple[list[Operation], list[BaseRoute]]:
    """Returns every operation, and every route, the catch-all last."""
    workers = functools.partial(
        Workers,
        max_waiting=settings.admission.max_waiting,
        inline_bytes=settings.limits.thread_body_bytes,
    )
    services = Services(
        settings,
        Fleet(service.backend),
        lambda: service.known,
        clock=clock,
        now=now,
        make_id=make_id,
        count_unknown=metrics.count_unknown_fields,
        toolbox=toolbox,
        stores=stores,
        drain=drain,
        reading=workers("reading"),
        counting=workers("counting"),
        embedding=workers("embedding"),
    )
    described = encoder.description if encoder is not None else None
    models = Models(settings, lambda: service.known, lambda: service.names, described, int(now()))
    store = (lambda: stores.state) if settings.store.enabled else None
    responses, socket = response_operations(services, background)
    operations = [
        *chat_operations(services),
        *completion_operations(services),
        *embedding_operations(services, encoder),
        *token_operations(services),
        *message_operations(services),
        *responses,
        *conversation_operations(services),
        *model_operations(models),
        *probe_operations(service, store, drain, service.metrics),
    ]
    operations.append(description_operation(operations, settings, lambda: service.names))
    routes = [socket, *make_routes(operations)]
    return operations, [*routes, Route("/{path:path}", Missing(routes))]
