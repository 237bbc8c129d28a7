"""The requests in flight: an event loop on a thread of its own, and what it hands to the host.

TensorRT-LLM wakes the loop once an engine step with the results of every request, so what has
arrived is handed over once a turn of the loop, however many streams it brought.

A dead engine must not leave this process waiting (TensorRT-LLM issue 18663): its health is asked
every second, and a loop that TensorRT-LLM blocks is noticed by its missing beat.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

from serving.boundary.contract import FatalError
from serving.boundary.messages import ExitCode, Output
from serving.engines.trtllm import failures, outputs
from serving.engines.trtllm.library import Llm, Result

HEALTH_SECONDS = 1.0
STATISTICS_SECONDS = 1.0
STALL_SECONDS = 30.0
"""Without a beat of the loop for so long, TensorRT-LLM blocks it: the engine hangs."""

MAX_EXHAUSTED = 3
"""Requests in a row that may fail for lack of GPU memory before the engine is given up."""

_log = logging.getLogger(__name__)


class Submission(NamedTuple):
    """One request, ready for `generate_async`."""

    id: int
    prompt: list[int]
    parameters: Any
    """`SamplingParams`."""
    priority: float
    cache_salt: str
    logprobs: int | None


class Arrival(NamedTuple):
    """What one turn of the loop brought."""

    outputs: list[Output]
    iterations: list[dict[str, Any]]


class Streams:
    """Runs requests; every method but the private ones is called by the host's thread."""

    def __init__(
        self,
        llm: Llm,
        *,
        clock: Callable[[], float] = time.monotonic,
        stall_seconds: float = STALL_SECONDS,
        health_seconds: float = HEALTH_SECONDS,
    ) -> None:
        self._llm = llm
        self._clock = clock
        self._stall_seconds = stall_seconds
        self._health_seconds = health_seconds
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="trtllm-streams", daemon=True)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._results: dict[int, Result] = {}
        self._watchers: list[asyncio.Task[None]] = []
        self._exhausted = 0
        self._submitted = False
        # Shared by the threads, under the condition:
        self._changed = threading.Condition()
        self._fresh: list[Output] = []
        self._arrived: list[Output] = []
        self._iterations: list[dict[str, Any]] = []
        self._broken: FatalError | None = None
        self._beat = clock()

    def start(self) -> None:
        """Starts the thread and the watch over the engine's health."""
        self._thread.start()
        self._loop.call_soon_threadsafe(self._begin)

    def submit(self, submission: Submission) -> None:
        """Starts a request. What is wrong with it comes back as an output."""
        self._loop.call_soon_threadsafe(self._submit, submission)

    def abort(self, sequence_id: int) -> None:
        """Ends a request; outputs that were handed over before may still be taken."""
        self._loop.call_soon_threadsafe(self._abort, sequence_id)

    def take(self, wait_seconds: float) -> Arrival:
        """Returns what has arrived, waiting for it if need be.

        Raises FatalError when the engine is lost; what had arrived before is returned first.
        """
        with self._changed:
            if not self._arrived and self._broken is None:
                self._changed.wait(wait_seconds)
            arrival = Arrival(self._arrived, self._iterations)
            self._arrived, self._iterations = [], []
        if not arrival.outputs:
            self.check()
        return arrival

    def check(self) -> None:
        """Raises FatalError when the engine is lost or hangs."""
        if self._broken is not None:
            raise self._broken
        silent_seconds = self._clock() - self._beat
        if silent_seconds > self._stall_seconds:
            raise FatalError(
                f"TensorRT-LLM blocks its event loop for {silent_seconds:.0f} seconds",
                ExitCode.HUNG,
            )

    def close(self, seconds: float) -> None:
        """Ends the loop, waiting at most `seconds` for it."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop)
            self._thread.join(seconds)

    # --- on the loop's thread ------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    def _begin(self) -> None:
        self._watchers = [self._spawn(self._watch()), self._spawn(self._collect())]

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._loop.create_task(work)

    def _stop(self) -> None:
        self._loop.stop()

    def _submit(self, submission: Submission) -> None:
        self._submitted = True
        self._tasks[submission.id] = self._spawn(self._follow(submission))

    def _abort(self, sequence_id: int) -> None:
        task = self._tasks.pop(sequence_id, None)
        result = self._results.pop(sequence_id, None)
        if task is not None:
            task.cancel()
        if result is not None:
            try:
                result.abort()
            except Exception as error:
                # It would go on using its blocks with nobody to end it.
                self._break(failures.fatal(error, "aborting a request"))

    async def _follow(self, submission: Submission) -> None:
        """Hands over the outputs of one request, the last of them with a finish."""
        sequence_id = submission.id
        try:
            result = self._llm.generate_async(
                submission.prompt,
                submission.parameters,
                streaming=True,
                cache_salt=submission.cache_salt or None,
                priority=submission.priority,
            )
        except Exception as error:
            self._fail(sequence_id, error, submitted=False)
            return
        self._results[sequence_id] = result
        try:
            await self._read(submission, result)
        except Exception as error:
            self._fail(sequence_id, error, submitted=True)
        finally:
            self._results.pop(sequence_id, None)
            self._tasks.pop(sequence_id, None)

    async def _read(self, submission: Submission, result: Result) -> None:
        first = True
        async for _ in result:
            output = outputs.read(submission.id, result, submission.logprobs, first=first)
            if output is not None:
                first = False
                self._hand_over(output)
                if output.finish:
                    self._exhausted = 0
                    return
        # Ended without a finish: older versions report a failed request only so.
        raise RuntimeError(result.error or "the request ended without a finish reason")

    def _fail(self, sequence_id: int, error: Exception, *, submitted: bool) -> None:
        """Ends one request with a fault, or the engine, as the error says.

        What is the request's alone is found first: its text may hold words of the client's.
        """
        detail = failures.describe(error)
        if failures.unguided(detail):
            _log.warning("request %d cannot be held to its grammar: %s", sequence_id, detail)
            self._hand_over(outputs.failure(sequence_id, "invalid", outputs.UNGUIDED))
            return
        if not submitted and failures.refuses(error):
            self._hand_over(outputs.failure(sequence_id, "invalid", failures.public(error)))
            return
        code = failures.meaning(detail)
        if code is None:
            _log.error("request %d failed: %s", sequence_id, detail)
            self._hand_over(outputs.failure(sequence_id, "internal", outputs.FAILED))
        elif code is ExitCode.OUT_OF_MEMORY and "engine has died" not in detail.lower():
            self._exhausted += 1
            message = "The engine ran out of memory."
            self._hand_over(outputs.failure(sequence_id, "out_of_memory", message))
            if self._exhausted >= MAX_EXHAUSTED:
                self._break(failures.fatal(error, f"{self._exhausted} requests in a row"))
        else:
            self._break(failures.fatal(error, "running a request"))

    async def _watch(self) -> None:
        """Asks the engine for its health and shows that the loop turns."""
        while self._broken is None:
            self._beat = self._clock()
            try:
                healthy = self._llm._check_health()
            except Exception as error:
                self._break(failures.fatal(error, "asking for the engine's health"))
                return
            if not healthy:
                self._break(self._illness())
                return
            await asyncio.sleep(self._health_seconds)

    def _illness(self) -> FatalError:
        """Returns what an unhealthy engine died of, as far as its executor tells."""
        cause = getattr(getattr(self._llm, "_executor", None), "_fatal_error", None)
        if not isinstance(cause, BaseException):
            cause = RuntimeError(str(cause) if cause else "EngineDeadError: no cause is told")
        return failures.fatal(cause, "TensorRT-LLM is not healthy")

    async def _collect(self) -> None:
        """Hands over what the executor reports of its iterations."""
        while True:
            await asyncio.sleep(self._health_seconds)
            if not self._submitted:
                continue  # Before the first request there is no queue of reports.
            try:
                async for iteration in self._llm.get_stats_async(timeout=STATISTICS_SECONDS):
                    with self._changed:
                        self._iterations.append(iteration)
            except Exception as error:
                _log.warning("statistics end here: %s", failures.describe(error))
                return

    def _hand_over(self, output: Output) -> None:
        if not self._fresh:
            # Runs after the tasks that this engine step has woken, so they share one handing over.
            self._loop.call_soon(self._publish)
        self._fresh.append(output)

    def _publish(self) -> None:
        with self._changed:
            self._arrived += self._fresh
            self._fresh = []
            self._changed.notify()

    def _break(self, error: FatalError) -> None:
        self._publish()
        with self._changed:
            if self._broken is None:
                self._broken = error
            self._changed.notify()
