"""The life of the service: reads the engine directory, starts the engine, tells its state."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from serving.boundary import engine
from serving.boundary.contract import EngineHandle
from serving.boundary.engine import EngineError
from serving.boundary.lifecycle import EngineState, Transition, failed
from serving.boundary.messages import Stats
from serving.control.admission import Admission
from serving.control.drain import Drain
from serving.errors import ServingError
from serving.generation.backend import Backend, unavailable
from serving.generation.pipeline import Pipeline
from serving.grammar import library
from serving.grammar.check import GrammarCheck
from serving.harmony.vocabulary import Vocabulary, VocabularyError
from serving.settings import Settings
from serving.telemetry.metrics import EngineGauges
from serving.telemetry.recorder import Recorder

STATS_SECONDS = 0.5
"""How long a look at the metrics waits for a busy engine."""


class Supervised(EngineHandle, Protocol):
    """An engine that somebody keeps running: the supervisor."""

    @property
    def state(self) -> EngineState:
        """Where the engine is now."""
        ...

    @property
    def alive(self) -> bool:
        """False once the engine has been given up."""
        ...

    @property
    def last_stats(self) -> Stats | None:
        """What the engine that runs now last said of itself; None where it has said nothing."""
        ...

    @property
    def restarts(self) -> int:
        """How many engine processes were started after the first."""
        ...

    async def start(self) -> None:
        """Begins to start the engine."""
        ...

    async def stop(self) -> None:
        """Ends the engine; no process is left."""
        ...


Launch = Callable[[Path, Callable[[Transition], None]], Supervised]
"""Makes the supervisor of an engine directory; it calls the function on each change of state."""


class Service:
    """What the host of the service asks and tells, and where requests find what serves them.

    `start` returns at once: the directory is read and the engine loads in the background, while
    requests are refused with 503. A directory that cannot be served makes `alive` false.
    """

    def __init__(
        self,
        settings: Settings,
        recorder: Recorder,
        launch: Launch,
        drain: Drain,
        *,
        clock: Callable[[], float],
        today: datetime.date,
        on_loaded: Callable[[], None],
    ) -> None:
        """`on_loaded` is called when all that this process needs is in its memory."""
        self._settings = settings
        self._recorder = recorder
        self._launch = launch
        self._drain = drain
        self._clock = clock
        self._on_loaded = on_loaded
        self._date = settings.date_at(today)
        self._supervised: Supervised | None = None
        self._backend: Backend | None = None
        self._grammars: GrammarCheck | None = None
        self._loading: asyncio.Task[None] | None = None
        self._failure: str | None = None
        self._admission = Admission(
            settings.admission.max_running or 1, settings.admission.max_waiting
        )

    @property
    def alive(self) -> bool:
        """False when only a restart of the whole service, or a person, can help."""
        return self._failure is None and (self._supervised is None or self._supervised.alive)

    @property
    def ready(self) -> bool:
        """True while requests are answered."""
        supervised = self._supervised
        return self._backend is not None and supervised is not None and supervised.ready is not None

    @property
    def state(self) -> str:
        """One word for where the engine is."""
        if self._failure is not None:
            return EngineState.FAILED.value
        return (self._supervised.state if self._supervised else EngineState.STARTING).value

    @property
    def known(self) -> Backend | None:
        """What serves requests, or None until the engine directory has been read."""
        return self._backend

    @property
    def names(self) -> tuple[str, ...]:
        """Under which clients may ask for the model; none until that is known."""
        named = self._settings.served_model_names
        return named or (self._backend.names if self._backend is not None else ())

    def backend(self) -> Backend:
        """Returns what serves requests. Raises ServingError (ENGINE_UNAVAILABLE) without it."""
        if self._failure is not None:
            raise failed(self._failure)
        if self._backend is None:
            raise unavailable()
        return self._backend

    async def start(self, directory: Path | None) -> None:
        """Begins to serve the engine in `directory`."""
        self._loading = asyncio.create_task(self._load(directory), name="service-start")

    async def stop(self) -> None:
        """Ends the engine. Requests that still run end with an error."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.wait({self._loading})
        if self._grammars is not None:
            await self._grammars.close()
        if self._supervised is not None:
            await self._supervised.stop()

    async def metrics(self) -> bytes:
        """Returns the metrics as text, with gauges of this moment."""
        stats = await self._stats()
        gauges = None
        if stats is not None:
            gauges = EngineGauges(
                running=stats.running,
                waiting=stats.waiting,
                blocks_used=stats.blocks_used,
                blocks_total=stats.blocks_total,
                suspended=len(stats.suspended),
            )
        restarts = 0 if self._supervised is None else self._supervised.restarts
        metrics = self._recorder.metrics
        metrics.observe_engine(gauges, self._admission.waiting, self.state, restarts)
        return metrics.text()

    async def _stats(self) -> Stats | None:
        """Returns what the engine says of itself, or said last if it does not answer.

        None while no engine is ready: then nothing is known of one.
        """
        supervised = self._supervised
        if supervised is None or supervised.ready is None:
            return None
        try:
            async with asyncio.timeout(STATS_SECONDS):
                return await supervised.stats()
        except (ServingError, TimeoutError):
            return supervised.last_stats

    async def _load(self, directory: Path | None) -> None:
        logger = self._recorder.logger
        try:
            await self._open(directory)
        except (EngineError, VocabularyError, OSError) as error:
            self._failure = "it cannot be used; the log of the service says why"
            logger.error("engine refused", reason=str(error))
        except Exception:
            self._failure = "the service could not start it"
            logger.exception("start failed")
        if self._failure is not None and self._supervised is not None:
            await self._supervised.stop()

    async def _open(self, directory: Path | None) -> None:
        """Reads the directory while the engine process starts on it."""
        if directory is None:
            raise EngineError("no engine is set: name one with GPT_OSS_ENGINE")
        manifest = await asyncio.to_thread(engine.read, directory)
        names = self._settings.served_model_names or (manifest.model.served_name,)
        self._recorder.metrics.name_engine(manifest.runtime, names[0])
        self._supervised = self._launch(directory, self._on_transition)
        await self._supervised.start()
        ranks = directory / engine.RANKS_PATH
        vocabulary = await asyncio.to_thread(Vocabulary.load, ranks)
        if library.is_installed():
            self._grammars = GrammarCheck(
                ranks,
                vocabulary.size,
                self._settings.deadlines.schema_seconds,
                max_waiting=self._settings.admission.max_waiting_schemas,
                clock=self._clock,
                on_loss=lambda why: self._recorder.logger.error("schema compiler lost", reason=why),
            )
        pipeline = Pipeline(
            self._supervised,
            vocabulary,
            self._admission,
            self._settings.deadlines,
            self._recorder,
            self._clock,
            self._grammars,
            self._drain,
        )
        self._on_loaded()
        self._backend = Backend(manifest, vocabulary, pipeline, self._date, names)

    def _on_transition(self, transition: Transition) -> None:
        """Logs a change of state: what an operator must know, whatever the level, as an error."""
        logger = self._recorder.logger
        restarted = self._supervised is not None and self._supervised.restarts > 0
        say = logger.info
        if transition.state in (EngineState.BACKOFF, EngineState.FAILED):
            self._recorder.metrics.count_loss(transition.cause.value)
            say = logger.error
        elif transition.state is EngineState.LOST or restarted:
            say = logger.warning
        say(
            "engine",
            state=transition.state.value,
            cause=transition.cause.value,
            detail=transition.detail,
            exit_code=transition.exit_code,
            restart_seconds=transition.restart_seconds,
        )
        ready = self._supervised.ready if self._supervised is not None else None
        if ready is not None:
            self._admission.resize(self._settings.admission.max_running or ready.max_batch_size)
