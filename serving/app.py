"""The composition root: settings and a clock -> an ASGI application that serves one engine.

Importing this and making the app costs little and touches nothing; the engine is read and started
in the app's lifespan.
"""

from __future__ import annotations

import datetime
import os
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from prometheus_client import disable_created_metrics
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.types import Scope

from serving.boundary.encoder.client import Encoder
from serving.boundary.encoder.description import EncoderError, locate, read
from serving.boundary.engine import SERVED_NAMES
from serving.boundary.lifecycle import EngineState, Policy, Transition
from serving.boundary.supervisor import Supervisor
from serving.control.callers import ANONYMOUS, Caller
from serving.control.drain import Drain, Phase
from serving.fleet.service import Launch, Service, Supervised
from serving.hosting import machine
from serving.protocols.edge.addressing import Addressing, OneHost
from serving.protocols.edge.door import Door
from serving.protocols.edge.edge import Edge
from serving.protocols.edge.limits import RequestLimits
from serving.protocols.edge.origins import Origins
from serving.protocols.edge.wire.slots import Slots
from serving.protocols.responses.background import Background
from serving.protocols.routes import all_routes
from serving.settings import Settings, SettingsError, Store, Supervision
from serving.store.access import Change, Way
from serving.store.stores import Stores
from serving.telemetry.logs import make_logger
from serving.telemetry.metrics import Metrics
from serving.telemetry.recorder import Recorder
from serving.tools.executors import Toolbox


def create_app(
    settings: Settings,
    *,
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], float] = time.time,
    make_id: Callable[[], str] = lambda: secrets.token_hex(12),
    launch: Launch | None = None,
    on_loaded: Callable[[], None] = lambda: None,
    identify: Callable[[Scope], Caller] = lambda scope: ANONYMOUS,
) -> Starlette:
    """Returns the application.

    `app.state.service` is its `Service`, `app.state.operations` what it can do, `app.state.drain`
    how it takes leave, `app.state.slots` the bound on its connections.
    `app.state.engine_directory`, when the host has set it before the lifespan begins, is the engine
    to serve, else `settings.engine` is. `launch` makes the supervisor: another one in tests.
    `identify` returns whose a request is. `on_loaded` is called once the engine's directory is
    read; a process that does nothing but serve passes `set_aside`.
    """
    # A second series for each counter, with the time of its first count, is of no use to anyone.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    metrics = Metrics(state.value for state in EngineState)
    recorder = Recorder(metrics, make_logger(settings.log_level))
    today = datetime.datetime.fromtimestamp(now(), datetime.UTC).date()
    launch = launch or _supervisor(settings.supervision)
    stores = Stores(
        _store_path(settings.store),
        settings.store,
        now=now,
        on_change=lambda change: _tell_of_store(recorder, change),
        on_failure=lambda way, reason: metrics.count_store_failure(way.value, reason.value),
    )
    for way in Way if settings.store.enabled else ():
        metrics.observe_store(way.value, True)

    def on_phase(phase: Phase) -> None:
        recorder.logger.info("drain", phase=phase.name.lower(), running=drain.running)

    drain = Drain(settings.drain, on_phase)
    metrics.draining.set_function(lambda: drain.draining)
    slots = Slots(
        metrics.count_closed_connection,
        on_short=lambda what: recorder.logger.warning("connections", reason=what),
    )
    metrics.connections.set_function(lambda: slots.count_open())
    service = Service(
        settings, recorder, launch, drain, clock=clock, today=today, on_loaded=on_loaded
    )
    toolbox = Toolbox(settings.tools, clock, metrics.count_tool_call)

    background = Background(
        stores.responses.uncancelled,
        on_bug=lambda name, bug: recorder.logger.error("failure", response_id=name, exc_info=bug),
    )
    encoder = _encoder(settings, recorder, clock)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None]:
        directory = app.state.engine_directory or settings.engine
        await service.start(Path(directory) if directory else None)
        try:
            yield
        finally:
            await background.stop()  # first: what still runs failed for this, not for the engine
            await service.stop()
            if encoder is not None:
                await encoder.close()
            await toolbox.close()
            await stores.close()

    operations, routes = all_routes(
        settings,
        service,
        metrics,
        stores,
        background,
        toolbox,
        encoder,
        drain,
        clock=clock,
        now=now,
        make_id=make_id,
    )
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(
                Addressing,
                trusted=map(str, settings.http.trusted_proxies),
                prefix=settings.http.root_path,
            ),
            Middleware(
                Edge,
                recorder=recorder,
                clock=clock,
                make_id=make_id,
                drain=drain,
                identify=identify,
            ),
            Middleware(Door, drain=drain),
            Middleware(OneHost),
            Middleware(
                RequestLimits,
                header_bytes=settings.limits.header_bytes,
                header_fields=settings.limits.header_fields,
                body_bytes=settings.limits.body_bytes,
                body_seconds=settings.deadlines.body_seconds,
            ),
            Middleware(
                Origins,
                allowed_origins=settings.http.allowed_origins,
                allowed_hosts=settings.http.allowed_hosts,
            ),
        ],
        lifespan=lifespan,
    )
    app.state.service = service
    app.state.operations = operations
    app.state.drain = drain
    app.state.slots = slots
    app.state.engine_directory = None
    app.router.redirect_slashes = False
    return app


def _tell_of_store(recorder: Recorder, change: Change) -> None:
    """Records that the store cannot be read or written any more, or can again."""
    works = change.reason is None
    recorder.metrics.observe_store(change.way.value, works)
    if change.reason is None:
        recorder.logger.warning("store works again", way=change.way.value)
        return
    recorder.logger.error(
        "store left alone", way=change.way.value, cause=change.reason.value, detail=change.detail
    )


def _store_path(settings: Store) -> Path:
    """Returns where responses are kept: where the settings say, or among the user's state."""
    if settings.path is not None:
        return Path(os.path.expanduser(settings.path))
    state = machine.user_directory("XDG_STATE_HOME", ".local/state")
    return state / "gpt-oss-120b" / "responses.sqlite3"


def _encoder(settings: Settings, recorder: Recorder, clock: Callable[[], float]) -> Encoder | None:
    """Returns what makes embeddings, or None. Raises SettingsError for what cannot make them."""
    chosen = settings.embeddings
    if chosen.encoder is None:
        return None
    if set(chosen.served_model_names) & set(settings.served_model_names or SERVED_NAMES):
        raise SettingsError("embeddings.served_model_names: names of the language model")
    try:
        description = read(locate(chosen.encoder))
    except EncoderError as error:
        raise SettingsError(f"embeddings.encoder: {error}") from None
    if any(length >= description.dimensions for length in chosen.shorter_dimensions):
        raise SettingsError(
            f"embeddings.shorter_dimensions: vectors have {description.dimensions} at most"
        )
    return Encoder(
        description,
        threads=chosen.threads or max(1, machine.processors() // 2),
        batch_tokens=chosen.batch_tokens,
        request_tokens=chosen.request_tokens,
        max_waiting=chosen.max_waiting,
        clock=clock,
        on_failure=lambda reason: recorder.logger.error("encoder", reason=reason),
    )


def _supervisor(settings: Supervision) -> Launch:
    """Returns what starts engine processes under these settings."""
    policy = Policy(**settings.model_dump(exclude={"exit_when_failed"}))

    def launch(directory: Path, on_transition: Callable[[Transition], None]) -> Supervised:
        return Supervisor(directory, policy, on_transition=on_transition)

    return launch
