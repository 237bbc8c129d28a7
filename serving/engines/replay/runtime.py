"""The runtime that plays a script: exact answers and real faults, with no model and no torch.

It keeps the rules of a real one (batch size, sequence length, stop tokens, priorities, aborts), so
that the service above it can be tested and loaded on any machine. Sampling parameters that choose
tokens have no effect.
"""

from __future__ import annotations

import heapq
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

from serving.boundary import engine
from serving.boundary.contract import FatalError
from serving.boundary.engine import Engine, EngineError
from serving.boundary.messages import Fault, FaultKind, Generate, Output, Ready, Stats, Step
from serving.engines.replay import script as scripts
from serving.engines.replay.playback import Playback, find
from serving.engines.replay.prefixes import Prefixes
from serving.engines.replay.script import Script

VERSION = "1"
"""Of the script format; an engine names it as `runtime_version`."""

_POLL_SECONDS = 0.005
_RESYNC_SECONDS = 1.0
"""Further behind its schedule than this, a paced engine starts a new one instead of racing."""


class ReplayRuntime:
    """A `Runtime` that plays scenarios."""

    def __init__(
        self,
        manifest: Engine,
        script: Script,
        *,
        load_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._manifest = manifest
        self._script = script
        self._load_seconds = load_seconds
        self._clock = clock
        self._sleep = sleep
        limits, block_tokens = manifest.limits, manifest.kv_cache.block_tokens
        held_tokens = limits.max_batch_size * limits.max_seq_len
        self._blocks_total = (manifest.kv_cache.max_tokens or held_tokens) // block_tokens
        self._prefixes = Prefixes(block_tokens, self._blocks_total)
        self._live: dict[int, Playback] = {}
        self._running: list[Playback] = []
        self._waiting: list[tuple[float, int, Playback]] = []
        self._failed: list[Output] = []
        self._submitted = 0
        self._next_step_at: float | None = None
        self._prefilled_at = -math.inf
        self._frozen_until = -math.inf
        self._exhausted_steps = 0
        self._steps = 0
        self._prompt_tokens = 0
        self._cached_tokens = 0
        self._generated_tokens = 0

    @classmethod
    def load(
        cls,
        directory: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> ReplayRuntime:
        """Returns the runtime of an engine directory, after the script's own load steps.

        Raises EngineError for an engine that is damaged or of another version.
        """
        began = clock()
        manifest = engine.read(directory)
        if manifest.runtime_version != VERSION:
            raise EngineError(
                f"{directory / engine.MANIFEST_NAME}: runtime_version is "
                f"{manifest.runtime_version}, this service plays {VERSION}; write the engine again"
            )
        script = scripts.read(directory)
        for step in script.load:
            match step:
                case scripts.Delay():
                    sleep(step.seconds)
                case scripts.Hang():
                    _hang(step.seconds, sleep)
                case scripts.Refuse():
                    raise EngineError(step.message)
                case scripts.Fail():
                    raise FatalError(step.message, step.exit_code)
                case scripts.Die():
                    _die(step)
        return cls(manifest, script, load_seconds=clock() - began, clock=clock, sleep=sleep)

    def ready(self) -> Ready:
        """Returns the engine's limits. Every sampling parameter is accepted."""
        limits = self._manifest.limits
        return Ready(
            runtime="replay",
            runtime_version=VERSION,
            max_batch_size=limits.max_batch_size,
            max_num_tokens=limits.max_num_tokens,
            max_seq_len=limits.max_seq_len,
            block_tokens=self._manifest.kv_cache.block_tokens,
            blocks=self._blocks_total,
            device="cpu",
            load_seconds=self._load_seconds,
            capabilities=(
                *("logprobs", "prompt_logprobs", "logit_bias", "penalties", "min_p"),
                *(("grammar",) if self._script.keeps_to_grammars else ()),
            ),
        )

    def submit(self, request: Generate) -> None:
        """Queues a sequence, highest priority first, then in order of arrival."""
        wrong = self._wrong_with(request)
        if wrong:
            self._failed.append(_failure(request.id, "invalid", wrong))
            return
        room = self._manifest.limits.max_seq_len - len(request.prompt)
        playback = Playback(
            request,
            self._steps_for(request.prompt),
            limit=min(request.sampling.max_tokens, room),
            vocab_size=self._manifest.architecture.vocab_size,
        )
        self._live[request.id] = playback
        self._submitted += 1
        heapq.heappush(self._waiting, (-request.priority, self._submitted, playback))

    def abort(self, sequence_id: int) -> None:
        """Forgets a sequence at once, or after the time that its script asks for."""
        playback = self._live.pop(sequence_id, None)
        if playback is None:
            return
        if playback.abort_seconds:
            self._sleep(playback.abort_seconds)
        self._running = [one for one in self._running if one is not playback]
        self._waiting = [entry for entry in self._waiting if entry[2] is not playback]
        heapq.heapify(self._waiting)

    @property
    def busy(self) -> bool:
        """True while there is a sequence, or the fault of one that was refused."""
        return bool(self._live or self._failed)

    def step(self) -> Step | None:
        """Gives every running sequence its next tokens, at the script's pace.

        A step that is not due yet is waited for and left to the next call, so that what arrives
        meanwhile is in it.
        """
        now = self._clock()
        if now < self._frozen_until or not self._on_schedule(now):
            self._sleep(min(_POLL_SECONDS, max(0.0, self._due_at(now) - now)))
            return None
        if self._exhausted_steps:
            self._exhausted_steps -= 1
            raise MemoryError("the script left no memory for this step")
        self._steps += 1
        self._admit(now)
        outputs, self._failed = self._failed, []
        produced = len(outputs)
        for playback in self._running:
            if now >= playback.resume_at:
                output = self._advance(playback, now)
                if output is not None:
                    outputs.append(output)
        self._retire(outputs[produced:])
        if not self._live:
            self._next_step_at = None
        if outputs:
            return Step(outputs)
        if not self._script.pace_seconds:
            self._sleep(min(_POLL_SECONDS, max(0.0, self._due_at(now) - now)))
        return None

    def stats(self) -> Stats:
        """Returns gauges and counters; a block is counted as used when any token is in it."""
        block_tokens, now = self._manifest.kv_cache.block_tokens, self._clock()
        return Stats(
            running=len(self._running),
            waiting=len(self._waiting),
            blocks_used=sum(
                -(-(len(one.request.prompt) + one.generated) // block_tokens)
                for one in self._running
            ),
            blocks_total=self._blocks_total,
            steps_total=self._steps,
            prompt_tokens_total=self._prompt_tokens,
            cached_tokens_total=self._cached_tokens,
            generated_tokens_total=self._generated_tokens,
            suspended=tuple(one.id for one in self._running if now < one.suspended_until),
        )

    def close(self) -> None:
        """Forgets every sequence."""
        self._live.clear()
        self._running.clear()
        self._waiting.clear()

    def _wrong_with(self, request: Generate) -> str:
        """Returns why a request cannot run, or "" when it can."""
        vocab_size = self._manifest.architecture.vocab_size
        max_seq_len = self._manifest.limits.max_seq_len
        if not request.prompt:
            return "The prompt has no tokens."
        if len(request.prompt) >= max_seq_len:
            return (
                f"The prompt has {len(request.prompt)} tokens; this engine holds sequences of "
                f"{max_seq_len} tokens."
            )
        if min(request.prompt) < 0 or max(request.prompt) >= vocab_size:
            return f"The prompt has a token outside the vocabulary of {vocab_size}."
        if request.sampling.max_tokens < 1:
            return "max_tokens must be at least 1."
        return ""

    def _steps_for(self, prompt: list[int]) -> tuple[scripts.ScriptStep, ...]:
        """Returns the first scenario that fits; without one, the sequence ends at once."""
        for scenario in self._script.scenarios:
            if not scenario.match or find(prompt, scenario.match) >= 0:
                return scenario.steps
        return ()

    def _on_schedule(self, now: float) -> bool:
        """Returns True when a step is due, and plans the next one."""
        pace_seconds = self._script.pace_seconds
        if not pace_seconds:
            return True
        due_at = self._next_step_at
        if due_at is None or now - due_at > _RESYNC_SECONDS:
            due_at = self._next_step_at = now
        if now < due_at:
            return False
        self._next_step_at = due_at + pace_seconds
        return True

    def _due_at(self, now: float) -> float:
        """Returns when something can happen next, as far as is known."""
        if now < self._frozen_until:
            return self._frozen_until
        if self._script.pace_seconds and self._next_step_at is not None:
            return self._next_step_at
        return min((one.resume_at for one in self._running), default=math.inf)

    def _admit(self, now: float) -> None:
        """Moves waiting sequences into the batch, and reads their prompts."""
        while self._waiting and len(self._running) < self._manifest.limits.max_batch_size:
            _, _, playback = heapq.heappop(self._waiting)
            self._running.append(playback)
            request = playback.request
            if self._manifest.kv_cache.block_reuse:
                playback.cached_tokens = self._prefixes.add(request.prompt, request.cache_salt)
            self._prompt_tokens += len(request.prompt)
            self._cached_tokens += playback.cached_tokens
            rate = self._script.prefill_tokens_per_second
            if rate is not None:
                new_tokens = len(request.prompt) - playback.cached_tokens
                self._prefilled_at = max(now, self._prefilled_at) + new_tokens / rate
                playback.resume_at = self._prefilled_at

    def _advance(self, playback: Playback, now: float) -> Output | None:
        """Returns what a sequence gets in this step; acts on the steps that give no token."""
        while playback.at >= playback.end:
            step = playback.next_step()
            match step:
                case None:
                    return Output(playback.id, [], "stop", playback.cached_tokens)
                case scripts.Delay():
                    playback.resume_at = now + step.seconds
                    return None
                case scripts.Stall():
                    playback.resume_at = math.inf
                    return None
                case scripts.Suspend():
                    playback.resume_at = playback.suspended_until = now + step.seconds
                    return None
                case scripts.Raise():
                    return _failure(playback.id, step.kind, step.message)
                case scripts.SlowAbort():
                    playback.abort_seconds = step.seconds
                case scripts.Exhaust():
                    self._exhausted_steps += step.times
                    return None
                case scripts.Freeze():
                    self._frozen_until = math.inf if step.seconds is None else now + step.seconds
                    return None
                case scripts.Hang():
                    _hang(step.seconds, self._sleep)
                    return None
                case scripts.Fail():
                    raise FatalError(step.message, step.exit_code)
                case scripts.Die():
                    _die(step)
                case _:
                    playback.begin(step)
        before = playback.generated
        output = playback.take(self._script.tokens_per_step)
        self._generated_tokens += playback.generated - before
        return output

    def _retire(self, outputs: list[Output]) -> None:
        """Forgets the sequences that finished in this step."""
        finished = {output.id for output in outputs if output.finish}
        if finished:
            for sequence_id in finished:
                del self._live[sequence_id]
            self._running = [one for one in self._running if one.id not in finished]


def _failure(sequence_id: int, kind: FaultKind, message: str) -> Output:
    return Output(sequence_id, [], "error", fault=Fault(kind, message))


def _hang(seconds: float | None, sleep: Callable[[float], None]) -> None:
    if seconds is not None:
        sleep(seconds)
    while seconds is None:
        sleep(3600.0)


def _die(step: scripts.Die) -> None:
    if step.exit_code is not None:
        os._exit(step.exit_code)
    os.kill(os.getpid(), step.signal)
