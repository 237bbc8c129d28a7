"""The BentoML service: one HTTP worker that hosts the ASGI app of `serving.app`.

The engine is a directory, or NAME:VERSION of BentoML's model store. First wins: GPT_OSS_ENGINE,
`--arg engine=...`, `engine` in config/service.yaml, a bento's mount (`mount` in bentofile.yaml),
the development engine.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import bentoml
import uvicorn
from bentoml._internal.utils.analytics import usage_stats
from bentoml.exceptions import BentoMLConfigException, NotFound
from pydantic import BaseModel, ConfigDict
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.app import create_app
from serving.hosting.announcement import address_of, announce
from serving.hosting.garbage import set_aside
from serving.hosting.parent import end_for_worker, end_with_engine, leave_with_parent
from serving.protocols.edge.server import Server
from serving.settings import SettingsError, load_settings
from serving.telemetry.logs import take_over

DEVELOPMENT_ENGINE = "gpt-oss-development:latest"

# BentoML reports its usage unless told not to. Its command line has asked, and kept the answer,
# before it imports this file; nothing has been sent by then. BENTOML_DO_NOT_TRACK=False opts in.
os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
usage_stats.do_not_track.cache_clear()


class Arguments(BaseModel):
    """What `--arg` of `bentoml serve` and `bentoml build` takes. A bento keeps its arguments."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: str = ""
    mount: str = ""
    """Where a bento finds an engine that nothing names. A checkout that is served may lack it."""
    bentoml_pages: bool = False
    """Shows BentoML's own pages and probes instead of the API's at the same paths."""


arguments = bentoml.use_arguments(Arguments)
try:
    settings = load_settings()
    if logging.getLogger().handlers:  # `bentoml serve` and its worker; commands talk to people
        take_over(settings.log_level)
    api = create_app(settings, on_loaded=set_aside)
except SettingsError as error:
    raise BentoMLConfigException(str(error)) from None  # one line on the terminal, no traceback
if bentoml.server_context.worker_index is None:  # not in the worker, which needs no circus
    from serving.hosting.arbiter import guard

    guard(settings.http)
    if settings.supervision.exit_when_failed:
        end_for_worker()


async def _announce(listener: socket.socket, tls: bool) -> None:
    """Tells the terminal what the start does, and where requests are taken."""
    address = address_of(listener, tls=tls, prefix=settings.http.root_path)
    service = api.state.service
    await announce(service, address, lambda: service.names[0], sys.stdout)


# BentoML's worker makes its server by this name after it has imported this file.
uvicorn.Server = partial(  # type: ignore[assignment,misc]
    Server,
    settings=settings.http,
    announce=_announce,
    drain=api.state.drain,
    slots=api.state.slots,
    slow_client_seconds=settings.deadlines.slow_client_seconds,
)
reference = (
    os.environ.get("GPT_OSS_ENGINE")
    or arguments.engine
    or settings.engine
    or arguments.mount
    or DEVELOPMENT_ENGINE
)


class Host(bentoml.Service[Any]):
    """Hands requests to the API itself; BentoML keeps the process and its life.

    With all of its own middleware off that can be turned off, BentoML still adds 60 microseconds
    of CPU to a small request (158 against 97, GET /v1/models on one core), and keeps a timer and a
    future of each until `traffic.timeout`. Admission, deadlines, metrics and traces are the API's.
    """

    def to_asgi(self, is_main: bool = True) -> ASGIApp:
        """Returns the app of the worker: the life cycle is BentoML's, requests are the API's."""
        hosted = super().to_asgi(is_main)
        if arguments.bentoml_pages:  # the API answers every path, so it comes after the pages
            hosted.router.routes.sort(key=lambda route: getattr(route, "app", None) is api)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            ours = scope["type"] != "lifespan" and not arguments.bentoml_pages
            await (api if ours else hosted)(scope, receive, send)

        return app


def _engine() -> Path | bentoml.models.BentoModel:
    """Returns the engine's directory, or the model that `bentoml build` records in the bento."""
    path = Path(os.path.expanduser(reference))
    # Not Path.is_dir, which raises where a directory above may not be searched.
    if path.is_absolute() or reference.startswith(".") or os.path.isdir(path):
        return path.absolute()
    return bentoml.models.BentoModel(reference)


@bentoml.service(
    name="gpt-oss-120b",
    service_class=Host,
    workers=1,  # one engine, so one worker: a second would load a second engine
    # For a gateway in front, as BentoCloud's: it waits as long as the API lets a request take.
    traffic={"timeout": settings.deadlines.queue_seconds + settings.deadlines.total_seconds},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    tracing={"excluded_urls": ".*"},
    # An arena for every thread costs tens of megabytes that hold nothing.
    envs=[{"name": "MALLOC_ARENA_MAX", "value": "2"}],
)
@bentoml.asgi_app(api, path="/")
class GptOss:
    """gpt-oss-120b behind the OpenAI API."""

    engine = _engine()
    bento_service: Any  # the Service made of this class; BentoML sets it before the hooks run

    @bentoml.on_startup
    async def start(self) -> None:
        """Tells the API where the engine is; watches BentoML."""
        api.state.engine_directory = _directory(self.engine, self.bento_service.bento)
        self._tasks = [asyncio.create_task(leave_with_parent())]
        if settings.supervision.exit_when_failed:
            self._tasks.append(asyncio.create_task(end_with_engine(api.state.service)))

    def __is_alive__(self) -> bool:
        return bool(api.state.service.alive)

    def __is_ready__(self) -> bool:
        return bool(api.state.service.ready) and not api.state.drain.draining


def _directory(engine: Path | bentoml.Model, bento: bentoml.Bento | None) -> Path:
    """Returns where the engine is. In a bento, `latest` is what it was when that was built."""
    if isinstance(engine, Path):
        if reference == arguments.mount and bento is None and not os.path.exists(engine):
            with suppress(NotFound):
                return Path(bentoml.models.get(DEVELOPMENT_ENGINE).path)
        return engine
    floating = ":" not in reference or reference.endswith(":latest")
    for recorded in bento.info.all_models if bento and floating else ():
        if recorded.tag.name == engine.tag.name:
            return Path(bentoml.models.get(recorded.tag).path)
    return Path(engine.path)
