"""Requests in flight. Follows tensorrt_llm/executor: utils.py (the errors), result.py of
1.3.0rc29 (`CompletionOutput`, `GenerationResult`, `IterationResult`; of 1.4.0rc4 its imports alone
were read), base_worker.py (how many tokens, what ends a sequence), proxy.py (one wake-up an engine
step; what a dead worker does).
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from tensorrt_llm.errors import EngineDeadError, RequestError
from tensorrt_llm.faults import FAULTS, TEXTS
from tensorrt_llm.kv_cache import BLOCK_TOKENS, Cache
from tensorrt_llm.refusals import check_bias, check_guide
from tensorrt_llm.sampling_params import SamplingParams

STEP_SECONDS = float(os.environ.get("TENSORRT_LLM_DOUBLE_STEP_SECONDS", "0.001"))


@dataclass(slots=True)
class Logprob:
    """A log-probability and its rank."""

    logprob: float
    rank: int | None = None


@dataclass(slots=True)
class CompletionOutput:
    """One sequence so far; every response mutates it."""

    index: int
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[dict[int, Logprob]] = field(default_factory=list)
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    _last_token_ids_len: int = field(default=0, init=False, repr=False)
    _last_logprobs_len: int = field(default=0, init=False, repr=False)

    @property
    def token_ids_diff(self) -> list[int]:
        return self.token_ids[self._last_token_ids_len :]

    @property
    def logprobs_diff(self) -> list[dict[int, Logprob]]:
        return self.logprobs[self._last_logprobs_len :]


@dataclass(slots=True)
class Response:
    """What an engine step has for one request; `error` excludes the rest."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[dict[int, Logprob]] | None = None
    finish: str | None = None
    error: str | None = None
    is_final: bool = False


class GenerationResult:
    """`RequestOutput`: iterating yields itself. Its queue belongs to the loop it was made in."""

    def __init__(
        self, request_id: int, prompt: list[int], parameters: SamplingParams, engine: Engine
    ) -> None:
        self.request_id = request_id
        self.prompt_token_ids = prompt
        self.sampling_params = parameters
        self.outputs = [CompletionOutput(0)]
        self.cached_tokens = 0
        self._engine = engine
        self._done = False
        self._error: str | None = None
        self._terminal_error: BaseException | None = None
        try:
            self.loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self.loop = None
        self.queue: asyncio.Queue[Response | EngineDeadError] = asyncio.Queue()

    @property
    def finished(self) -> bool:
        return self._done

    @property
    def error(self) -> str | None:
        return self._error

    def abort(self) -> None:
        self._engine.abort_request(self.request_id)

    def __aiter__(self) -> AsyncIterator[GenerationResult]:
        return self

    async def __anext__(self) -> GenerationResult:
        if self._terminal_error is not None:
            raise self._terminal_error
        if self._done:
            raise StopAsyncIteration
        if self.loop is None:
            raise AssertionError("The asyncio event loop was not present during initialization")
        response = await self.queue.get()
        if isinstance(response, EngineDeadError):
            self._terminal_error = response
            self._done = True
            raise response
        self._handle_response(response)
        return self

    def _handle_response(self, response: Response) -> None:
        if response.error is not None:
            self._error = response.error
            self._done = True
            self._engine.handle_background_error(response.error)
        self._done = response.is_final
        output = self.outputs[0]
        output._last_token_ids_len = len(output.token_ids)
        output._last_logprobs_len = len(output.logprobs)
        output.token_ids.extend(response.tokens)
        if response.logprobs is not None:
            output.logprobs += response.logprobs
        output.finish_reason = "stop" if response.finish == "stop_words" else response.finish
        if response.finish == "stop_words":
            output.stop_reason = output.token_ids[-1]
            if not self.sampling_params.include_stop_str_in_output:
                output.token_ids = output.token_ids[:-1]
                output.logprobs = output.logprobs[:-1]


class IterationResult:
    """Reports of iterations: ends when none comes for `timeout`, until a new prompt."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[str] = asyncio.Queue()
        self._timeout: float | None = 2
        self._done = False

    def set_timeout(self, timeout: float | None) -> None:
        self._timeout = timeout

    def mark_undone(self) -> None:
        self._done = False

    def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        return self

    async def __anext__(self) -> dict[str, Any]:
        if self._done:
            raise StopAsyncIteration
        try:
            data = await asyncio.wait_for(self.queue.get(), self._timeout)
        except TimeoutError:
            self._done = True
            raise StopAsyncIteration from None
        decoded: dict[str, Any] = json.loads(data)
        return decoded


@dataclass(slots=True)
class _Running:
    result: GenerationResult
    limit: int
    stops_after: int
    fault: str
    produced: int = 0
    aborted: bool = False


class Engine:
    """Proxy and workers in one: a thread that gives every running request a token a step."""

    def __init__(
        self, *, max_batch_size: int, max_seq_len: int, reports: bool, cache: Cache
    ) -> None:
        self.cache = cache
        self.submitted: list[tuple[list[int], SamplingParams, str | None, float]] = []
        self.doing_shutdown = False
        self._max_batch_size = max_batch_size
        self._max_seq_len = max_seq_len
        self._reports = reports
        self._fatal_error: BaseException | None = None
        self._engine_dead = False
        self._ids = 0
        self._iterations = 0
        self._stats_result: IterationResult | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._changed = threading.Condition()
        self._requests: dict[int, _Running] = {}
        threading.Thread(target=self._run, name="double-engine", daemon=True).start()

    def submit(
        self, prompt: list[int], parameters: SamplingParams, salt: str | None, priority: float
    ) -> GenerationResult:
        if self._engine_dead:
            raise EngineDeadError(self._fatal_error)
        self._loop = asyncio.get_running_loop()
        if self._stats_result is None:
            self._stats_result = IterationResult()
        self._stats_result.mark_undone()
        self._ids += 1
        result = GenerationResult(self._ids, prompt, parameters, self)
        room = self._max_seq_len - len(prompt)
        if room <= 0:
            # In 1.4.0rc1 the context's capacity and the prompt's length (pull request 19457); the
            # words are not theirs.
            raise RequestError(
                f"The context holds {self._max_seq_len} tokens, the prompt has {len(prompt)}"
            )
        names = {token: name for name, token in FAULTS.items()}
        fault = names.get(prompt[1], "") if len(prompt) > 1 else ""
        if fault == "refused":
            raise RequestError("the worker refuses this request")
        if fault == "refused_by_words":
            raise RequestError("unknown keyword 'Engine has died: NCCL error'")
        if parameters.embedding_bias is not None:
            check_bias(parameters.embedding_bias)
        if parameters.guided_decoding is not None:
            check_guide(parameters.guided_decoding)
        self.submitted.append((prompt, parameters, salt, priority))
        with self._changed:
            self._requests[self._ids] = _Running(
                result, min(parameters.max_tokens, room), prompt[0], fault
            )
            self._changed.notify()
        return result

    def abort_request(self, request_id: int) -> None:
        with self._changed:
            if request_id in self._requests:
                self._requests[request_id].aborted = True

    def check_health(self) -> bool:
        return self._fatal_error is None and not self._engine_dead and not self.doing_shutdown

    def handle_background_error(self, error: str) -> None:
        if error == "block":
            time.sleep(3600)  # shutdown() that waits for workers that never come back
        raise RequestError(error)

    def stats(self, timeout: float | None) -> IterationResult:
        if self._stats_result is None:
            empty = IterationResult()
            empty._done = True
            return empty
        self._stats_result.set_timeout(timeout)
        return self._stats_result

    def shutdown(self) -> None:
        with self._changed:
            self.doing_shutdown = True
            self._changed.notify()

    @property
    def in_flight(self) -> int:
        with self._changed:
            return len(self._requests)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._requests and not self.doing_shutdown:
                    self._changed.wait()
                if self.doing_shutdown or self._fatal_error is not None:
                    return
                batch = list(self._requests.items())
                batch, paused = self._schedule(batch)
                responses = self._step(batch)
                report = self._report(paused)
            loop = self._loop
            if loop is not None and not loop.is_closed():
                loop.call_soon_threadsafe(self._notify, responses, report)
            time.sleep(STEP_SECONDS)

    def _schedule(
        self, batch: list[tuple[int, _Running]]
    ) -> tuple[list[tuple[int, _Running]], int]:
        """Returns who advances in this step, and how many were set aside for them."""
        batch = batch[: self._max_batch_size]
        wanted = [
            (one, len(running.result.prompt_token_ids) + running.produced + 1)
            for one, running in batch
            if not running.aborted
        ]
        advancing, paused = self.cache.schedule(wanted)
        return [
            (one, running) for one, running in batch if one in advancing or running.aborted
        ], paused

    def _notify(
        self, responses: list[tuple[GenerationResult, Response | EngineDeadError]], report: str
    ) -> None:
        for result, response in responses:
            result.queue.put_nowait(response)
        if self._reports and self._stats_result is not None:
            self._stats_result.queue.put_nowait(report)

    def _step(
        self, batch: list[tuple[int, _Running]]
    ) -> list[tuple[GenerationResult, Response | EngineDeadError]]:
        self._iterations += 1
        responses: list[tuple[GenerationResult, Response | EngineDeadError]] = []
        for request_id, running in batch:
            if running.fault and running.produced >= 2:
                if running.fault in ("worker_killed", "died_of_memory"):
                    return self._die(running.fault)
                if running.fault in ("fatal", "hang_detected"):
                    self._fatal_error = RuntimeError(TEXTS[running.fault])
                    return []
            response = self._advance(running)
            responses.append((running.result, response))
            if response.is_final or response.error is not None:
                del self._requests[request_id]
                self.cache.free(request_id)
        return responses

    def _die(self, fault: str) -> list[tuple[GenerationResult, Response | EngineDeadError]]:
        self._engine_dead = True
        self._fatal_error = RuntimeError(TEXTS[fault])
        pending = [running.result for running in self._requests.values()]
        self._requests.clear()
        return [(result, EngineDeadError(self._fatal_error)) for result in pending]

    def _advance(self, running: _Running) -> Response:
        parameters = running.result.sampling_params
        if running.aborted:
            return Response(finish="cancelled", is_final=True)
        if running.fault and running.produced >= 2:
            if running.fault == "no_finish":
                return Response(is_final=True)
            if running.fault == "blocks_the_loop":
                return Response(error="block")
            if running.fault in TEXTS:
                return Response(error=TEXTS[running.fault])
        stops = [] if parameters.ignore_eos else parameters.stop_token_ids or []
        stopping = bool(stops) and 0 < running.stops_after <= running.produced
        token = (
            stops[0] if stopping else token_at(running.result.prompt_token_ids, running.produced)
        )
        running.produced += 1
        finish = "stop_words" if stopping else None
        if stopping and token == parameters.end_id:
            finish = "stop"
        if finish is None and running.produced >= running.limit:
            finish = "length"
        logprobs = None
        if parameters.logprobs is not None and running.fault != "logprobs_missing":
            logprobs = [_logprobs(token, parameters.logprobs)]
        if running.produced == 1:
            running.result.cached_tokens = len(running.result.prompt_token_ids) // 2
        return Response([token], logprobs, finish, is_final=finish is not None)

    def _report(self, paused: int) -> str:
        live = len(self._requests)
        queued = max(0, live - self._max_batch_size)
        return json.dumps(
            {
                "iter": self._iterations - 1,
                "numActiveRequests": live - queued,
                "numQueuedRequests": queued,
                "kvCacheStats": {
                    "maxNumBlocks": self.cache.blocks,
                    "usedNumBlocks": self.cache.used,
                    "freeNumBlocks": self.cache.blocks - self.cache.used,
                    "tokensPerBlock": BLOCK_TOKENS,
                },
                "inflightBatchingStats": {"numPausedRequests": paused},
            }
        )


def token_at(prompt: list[int], index: int) -> int:
    """Returns the token that the double generates at `index` after this prompt."""
    return (sum(prompt) * 31 + index) % 199_000


def _logprobs(token: int, alternatives: int) -> dict[int, Logprob]:
    """The K likeliest, and last the sampled token, which is the third likeliest here."""
    ranked = [token + 2, token + 1, token, token + 3, token + 4]
    entry = {
        each: Logprob(-0.5 * (rank + 1), rank + 1)
        for rank, each in enumerate(ranked[:alternatives])
    }
    entry.setdefault(token, Logprob(-1.5, 3))
    return entry
