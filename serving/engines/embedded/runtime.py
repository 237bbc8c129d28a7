"""The embedded runtime: GPT-OSS in PyTorch behind the `Runtime` contract, one thread, one step at
a time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from serving.boundary import engine as engines
from serving.boundary.engine import KvCache, Limits
from serving.boundary.messages import Fault, Generate, Logprob, Output, Ready, Stats, Step
from serving.engines.embedded.admission import refusal
from serving.engines.embedded.executor import Done, Executor
from serving.engines.embedded.grammars import Grammars
from serving.engines.embedded.linear import fast_dtype
from serving.engines.embedded.opening import open_model
from serving.engines.embedded.sampling import Sampled, Sampler
from serving.engines.embedded.scheduler import Scheduler, Work
from serving.engines.embedded.sequence import Sequence as Running
from serving.grammar import library
from serving.grammar.core import GrammarError
from serving.hosting import machine

CAPABILITIES = ("logprobs", "prompt_logprobs", "logit_bias", "penalties", "min_p")
COMPILE_WAIT_SECONDS = 0.004
"""How long a step waits that has nothing but grammars to wait for."""
KERNELS_VARIABLE = "EMBEDDED_KERNELS"
"""In the engine process's environment: `native`, which is what it is without it, or `torch`."""
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "auto": None}


class EmbeddedRuntime:
    """Runs sequences on one device. See `serving.boundary.contract.Runtime`."""

    @classmethod
    def load(cls, directory: Path) -> EmbeddedRuntime:
        """Returns the runtime of an engine directory.

        `precision.activations` is `bfloat16`, `float32` or `auto`: the faster on this machine.
        Keys and values have the same format. Raises EngineError.
        """
        manifest = engines.read(directory)
        name = manifest.precision.activations
        for wrong, message in (
            (manifest.runtime != "embedded", f"runtime is {manifest.runtime}, not embedded"),
            (name not in DTYPES, f"precision.activations {name!r} is not known"),
            (manifest.precision.kv_cache not in (name, "auto"), "precision.kv_cache differs"),
            (manifest.mesh != engines.Mesh(), "mesh is of more than one device"),
            (not manifest.cuda_graphs.padding, "cuda_graphs.padding is off"),
        ):
            if wrong:
                raise engines.EngineError(f"{directory / engines.MANIFEST_NAME}: {message}")
        # OpenMP knows which processors it may run on, and nothing of a quota of their time.
        torch.set_num_threads(min(torch.get_num_threads(), machine.processors()))
        return cls(
            directory / engines.CHECKPOINT_DIRECTORY,
            limits=manifest.limits,
            kv_cache=manifest.kv_cache,
            dtype=DTYPES[name],
            device="cpu" if manifest.device.kind == "cpu" else "cuda",
            graph_batch_sizes=manifest.cuda_graphs.batch_sizes,
            ranks=directory / engines.RANKS_PATH,
            native=_native(os.environ.get(KERNELS_VARIABLE, "native")),
        )

    def __init__(
        self,
        checkpoint: Path,
        *,
        limits: Limits,
        kv_cache: KvCache,
        dtype: torch.dtype | None = None,
        device: str = "cpu",
        graph_batch_sizes: Sequence[int] = (),
        ranks: Path | None = None,
        native: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Loads a checkpoint directory. `dtype` None is the faster one of this machine.

        `graph_batch_sizes` are decode batches that run at a fixed size, padded up to the next:
        as CUDA graphs on a GPU, as the same code without capture elsewhere. With `ranks`, the
        file of the vocabulary, output can be constrained to grammars where xgrammar is installed.
        `native` False leaves the C functions out, see `opening.open_model`.
        """
        started = clock()
        where = torch.device(device)
        self._model, open_pass = open_model(
            checkpoint,
            block_tokens=kv_cache.block_tokens,
            dtype=dtype or fast_dtype(where),
            device=where,
            batch_sizes=tuple(graph_batch_sizes),
            native=native,
        )
        self._executor = Executor(self._model, open_pass, limits, kv_cache)
        self._cache = self._executor.cache
        self._scheduler = Scheduler(
            self._cache,
            limits.max_batch_size,
            limits.max_num_tokens,
            self._model.sizes.tile_rows,
        )
        self._sampler = Sampler(self._model.config.vocab_size)
        self._grammars: Grammars | None = None
        if ranks is not None and library.is_installed():
            self._grammars = Grammars(ranks, self._model.config.vocab_size)
        self._limits = limits
        self._max_seq_len = min(limits.max_seq_len, self._executor.longest_tokens)
        self._sequences: dict[int, Running] = {}
        self._refused: list[Output] = []
        self._arrivals = self._steps = 0
        self._prompt_tokens = self._cached_tokens = self._generated_tokens = 0
        self._executor.warm_up()
        self._load_seconds = clock() - started

    @property
    def dtype(self) -> torch.dtype:
        """The format of activations, keys and values."""
        return self._model.dtype

    def ready(self) -> Ready:
        """Returns the facts that the API process needs."""
        return Ready(
            runtime="embedded",
            runtime_version=str(torch.__version__),
            max_batch_size=self._limits.max_batch_size,
            max_num_tokens=self._limits.max_num_tokens,
            max_seq_len=self._max_seq_len,
            block_tokens=self._cache.block_tokens,
            blocks=self._cache.full.total,
            device=str(self._model.device),
            load_seconds=self._load_seconds,
            capabilities=(*CAPABILITIES, *(("grammar",) if self._grammars else ())),
        )

    def submit(self, request: Generate) -> None:
        """Queues a sequence; what is wrong with it comes back as an output with a fault."""
        wrong = refusal(
            request,
            self._model.config.vocab_size,
            self._max_seq_len,
            constrains=self._grammars is not None,
        )
        if wrong:
            fault = Fault("invalid", wrong)
            self._refused.append(Output(request.id, [], finish="error", fault=fault))
            return
        sequence = Running(request, self._arrivals, self._max_seq_len, self._cache.block_tokens)
        self._arrivals += 1
        self._sequences[sequence.id] = sequence
        self._sampler.add(sequence.id, request.sampling, request.prompt)
        if self._grammars is not None and request.sampling.grammar is not None:
            self._grammars.begin(sequence.id, request.sampling.grammar)
        else:
            self._scheduler.add(sequence)

    def abort(self, sequence_id: int) -> None:
        """Forgets a sequence and frees its blocks at once. Unknown ids are ignored."""
        self._refused = [output for output in self._refused if output.id != sequence_id]
        sequence = self._sequences.get(sequence_id)
        if sequence is not None:
            self._forget(sequence)

    @property
    def busy(self) -> bool:
        """True while a sequence is queued or running."""
        return bool(self._sequences or self._refused)

    @torch.inference_mode()
    def step(self) -> Step | None:
        """Runs one step and returns its outputs, or None when there were none."""
        outputs, self._refused = self._refused, []
        if self._grammars is not None and self._grammars.compiling:
            outputs += self._join(self._grammars)
        work = self._scheduler.schedule()
        if work:
            self._steps += 1
            outputs += self._advance(work)
        return Step(outputs) if outputs else None

    def stats(self) -> Stats:
        """Returns gauges and counters; blocks are those of the full and of the sliding layers."""
        return Stats(
            running=len(self._scheduler.running),
            waiting=len(self._sequences) - len(self._scheduler.running),
            blocks_used=self._cache.used,
            blocks_total=self._cache.total,
            steps_total=self._steps,
            prompt_tokens_total=self._prompt_tokens,
            cached_tokens_total=self._cached_tokens,
            generated_tokens_total=self._generated_tokens,
            preemptions_total=self._scheduler.preemptions,
            suspended=self._scheduler.preempted,
        )

    def close(self) -> None:
        """Drops every sequence. The memory goes with the object."""
        for sequence in tuple(self._sequences.values()):
            self._forget(sequence)
        self._refused.clear()
        if self._grammars is not None:
            self._grammars.close()

    def _join(self, grammars: Grammars) -> list[Output]:
        """Queues the sequences whose grammars are compiled; returns the ends of the others."""
        idle = not (self._scheduler.waiting or self._scheduler.running)
        failed = []
        for sequence_id, reason in grammars.compiled(COMPILE_WAIT_SECONDS if idle else 0.0):
            sequence = self._sequences[sequence_id]
            self._scheduler.add(sequence)
            if reason:
                message = f"The grammar cannot be used: {reason}."
                failed.append(self._fail(sequence, Fault("invalid", message)))
            elif (fault := self._constrain(grammars, sequence)) is not None:
                failed.append(self._fail(sequence, fault))
        return failed

    def _constrain(
        self, grammars: Grammars, sequence: Running, token: int | None = None
    ) -> Fault | None:
        """Moves the sequence's grammar on by `token`, and lets its next token fit."""
        try:
            if token is None or grammars.advance(sequence.id, token):
                self._sampler.constrain(sequence.id, grammars.allowed(sequence.id))
                return None
        except GrammarError:
            pass
        return Fault("internal", "The engine could not keep the answer to its schema.")

    def _advance(self, work: list[Work]) -> list[Output]:
        done, failed = self._executor.run(work)
        outputs = [self._fail(sequence, fault) for sequence, fault in failed]
        if done.scored:
            outputs += self._score(done)
        for item in done.work:
            self._count_prompt(item)
            samples = item.samples
            item.sequence.computed += item.count
            if not samples:
                self._cache.commit(item.sequence)
        if done.sampled:
            ids = [sequence.id for sequence in done.sampled]
            choices = self._sampler.sample(done.logits, ids)
            outputs += map(self._emit, done.sampled, choices)
        return outputs

    def _score(self, done: Done) -> list[Output]:
        """Returns the log-probabilities of the prompts' tokens that follow those which ran."""
        found: dict[int, list[Logprob]] = {}
        for row, (sequence, position) in sorted(enumerate(done.scored), key=lambda one: one[1][1]):
            # What was scored before a preemption is computed again, and not given again.
            if position + 1 != sequence.scored_tokens or not sequence.scoring:
                continue
            following = sequence.token(position + 1)
            alternatives = sequence.sampling.prompt_logprobs or 0
            scores = done.scores[row : row + 1]
            found.setdefault(sequence.id, []).extend(
                self._sampler.score(scores, [following], [alternatives])
            )
            sequence.scored_tokens += 1
        return [Output(key, [], prompt_logprobs=logprobs) for key, logprobs in found.items()]

    def _emit(self, sequence: Running, sampled: Sampled) -> Output:
        if not sampled.finite:
            self._executor.clear(self._cache.discard(sequence))
            return self._fail(sequence, Fault("internal", "The model gave no usable numbers."))
        first = sequence.generated == 0
        finish = sequence.append(sampled.token)
        self._generated_tokens += 1
        self._cache.commit(sequence)
        if finish:
            self._forget(sequence)
        elif self._grammars is not None and self._grammars.follows(sequence.id):
            fault = self._constrain(self._grammars, sequence, sampled.token)
            if fault is not None:
                return self._fail(sequence, fault)
        return Output(
            sequence.id,
            [sampled.token],
            finish=finish,
            cached_tokens=(sequence.cached_tokens or 0) if first else 0,
            logprobs=None if sampled.logprob is None else [sampled.logprob],
        )

    def _count_prompt(self, item: Work) -> None:
        """Counts a prompt once, when its last chunk has run for the first time."""
        if item.samples and item.sequence.generated == 0:
            self._prompt_tokens += item.sequence.prompt_tokens
            self._cached_tokens += item.sequence.cached_tokens or 0

    def _fail(self, sequence: Running, fault: Fault) -> Output:
        self._forget(sequence)
        return Output(sequence.id, [], finish="error", fault=fault)

    def _forget(self, sequence: Running) -> None:
        del self._sequences[sequence.id]
        self._sampler.remove(sequence.id)
        # What waits for its grammar is not the scheduler's yet.
        if self._grammars is None or not self._grammars.forget(sequence.id):
            self._scheduler.remove(sequence)


def _native(kernels: str) -> bool:
    """Returns whether C functions are wanted. Raises EngineError for an unknown word."""
    if kernels not in ("native", "torch"):
        raise engines.EngineError(f"{KERNELS_VARIABLE}={kernels!r} is neither native nor torch")
    return kernels == "native"
