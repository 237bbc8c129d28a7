"""The addresses of the API."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Protocol

from starlette.routing import BaseRoute, Route

from serving.api.anthropic.endpoint import messages, token_count
from serving.api.chat.endpoint import chat_completions
from serving.api.completions.endpoint import completions
from serving.api.conversations.routes import conversations_routes
from serving.api.embeddings.endpoint import embeddings
from serving.api.generation import Surroundings
from serving.api.missing import Missing
from serving.api.models import Models
from serving.api.openapi.endpoint import Description
from serving.api.probes import Health, MetricsPage, Probe
from serving.api.responses.background import Background
from serving.api.responses.routes import responses_routes
from serving.api.tokenize import detokenize, tokenize
from serving.backend import Backend
from serving.control.drain import Drain
from serving.control.workers import Workers
from serving.fleet.table import Fleet
from serving.runtime.encoder.client import Encoder
from serving.settings import Settings
from serving.store.stores import Stores
from serving.telemetry.metrics import Metrics
from serving.tools.executors import Toolbox


class Serving(Health, Protocol):
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


def make_routes(
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
) -> list[BaseRoute]:
    """Returns every route, the catch-all last. No other address answers anything but 404."""
    workers = functools.partial(
        Workers,
        max_waiting=settings.admission.max_waiting,
        inline_bytes=settings.limits.thread_body_bytes,
    )
    around = Surroundings(
        settings,
        Fleet(service.backend),
        lambda: service.known,
        clock=clock,
        now=now,
        make_id=make_id,
        count_unknown=metrics.count_unknown_fields,
        toolbox=toolbox,
        drain=drain,
        reading=workers("reading"),
        counting=workers("counting"),
        embedding=workers("embedding"),
    )
    described = encoder.description if encoder is not None else None
    models = Models(settings, lambda: service.known, lambda: service.names, described, int(now()))
    alive = Probe(service, lambda health: health.alive)
    store = (lambda: stores.state) if settings.store.enabled else None
    ready = Probe(service, lambda health: health.ready, store, drain)
    collect: Callable[[], Awaitable[bytes]] = service.metrics
    routes: list[BaseRoute] = [
        Route("/v1/chat/completions", chat_completions(around), methods=["POST"]),
        Route("/v1/completions", completions(around), methods=["POST"]),
        Route("/v1/embeddings", embeddings(around, encoder), methods=["POST"]),
        Route("/v1/tokenize", tokenize(around), methods=["POST"]),
        Route("/v1/detokenize", detokenize(around), methods=["POST"]),
        Route("/v1/messages", messages(around), methods=["POST"]),
        Route("/v1/messages/count_tokens", token_count(around), methods=["POST"]),
        *responses_routes(around, stores, background),
        *conversations_routes(around, stores),
        Route("/v1/models", models, methods=["GET"]),
        Route("/v1/models/{name:path}", models, methods=["GET"]),
        Route("/livez", alive, methods=["GET"]),
        Route("/readyz", ready, methods=["GET"]),
        Route("/health", ready, methods=["GET"]),
        Route("/metrics", MetricsPage(collect), methods=["GET"]),
    ]
    listed = [route for route in routes if isinstance(route, Route)]
    listed.append(
        Route(
            "/openapi.json", Description(listed, settings, lambda: service.names), methods=["GET"]
        )
    )
    routes.append(listed[-1])
    return [*routes, Route("/{path:path}", Missing(routes))]
