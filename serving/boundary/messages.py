"""The typed messages between the API process and the engine process.

Each travels as msgpack behind a 4-byte little-endian length on a Unix-domain socket. There is ONE
`Step` an engine step, with the new tokens of every running sequence, so that the cost of the
boundary grows with steps and not with streams.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Literal

import msgspec

from serving.boundary.sampling import Sampling

Finish = Literal["", "stop", "length", "aborted", "error"]
FaultKind = Literal["invalid", "out_of_memory", "internal"]


class ExitCode(IntEnum):
    """Why the engine process left. The supervisor decides by it whether to start another."""

    PARENT_LEFT = 0
    """The API process closed the socket, or asked for the end."""
    FATAL = 70
    """The runtime cannot go on (EX_SOFTWARE)."""
    REFUSED = 78
    """The engine does not belong on this machine, or is damaged (EX_CONFIG): do not retry."""
    OUT_OF_MEMORY = 71
    """Out of memory while loading, or again and again while serving (EX_OSERR)."""
    WORKER_LOST = 72
    """A process of another rank died (EX_OSFILE)."""
    HUNG = 75
    """The engine stopped making progress: by its own account, or by the supervisor's that killed
    it (EX_TEMPFAIL)."""
    COMMUNICATION = 76
    """The ranks can no longer talk to each other, as after an NCCL error (EX_PROTOCOL)."""


# --- API process -> engine process -------------------------------------------------------------


class Generate(msgspec.Struct, frozen=True, tag="generate"):
    """Starts one sequence. `id` is unique for the life of the connection."""

    id: int
    prompt: list[int]
    sampling: Sampling
    priority: float = 0.5
    """0 (last) to 1 (first)."""
    cache_salt: str = ""
    """Sequences share cached prefixes only with the same salt."""


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """Ends a sequence and frees its memory before the next step. Unknown ids are ignored."""

    id: int


class GetStats(msgspec.Struct, frozen=True, tag="get_stats"):
    """Asks for `Stats`; the answer also shows that the engine loop turns."""


class Shutdown(msgspec.Struct, frozen=True, tag="shutdown"):
    """Asks the engine process to leave; running sequences are dropped."""


ToEngine = Generate | Abort | GetStats | Shutdown

# --- engine process -> API process -------------------------------------------------------------


class Fault(msgspec.Struct, frozen=True, array_like=True):
    """Why one sequence failed. `message` is public."""

    kind: FaultKind
    message: str


class Logprob(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The log-probability (natural logarithm) of a sampled token, and of the likeliest ones."""

    logprob: float
    top: list[tuple[int, float]] = []


class Output(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one sequence got in a step.

    `tokens` includes the stop token that ended it. `logprobs`, when asked for, has one entry a
    token. `cached_tokens` is how much of the prompt came from the cache; it is set on the first
    output of a sequence. After an output with `finish` the id is dead. `prompt_logprobs`, when
    asked for, are of the next tokens of the prompt, from the second on; they come before or with
    the first of `tokens`, in as many outputs as the engine likes.
    """

    id: int
    tokens: list[int]
    finish: Finish = ""
    cached_tokens: int = 0
    logprobs: list[Logprob] | None = None
    fault: Fault | None = None
    prompt_logprobs: list[Logprob] | None = None


class Step(msgspec.Struct, frozen=True, tag="step"):
    """The outputs of one engine step; only sequences that got something are in it."""

    outputs: list[Output]


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The engine is loaded and warmed. Sent once, first."""

    runtime: str
    runtime_version: str
    max_batch_size: int
    max_num_tokens: int
    max_seq_len: int
    block_tokens: int
    blocks: int
    device: str
    load_seconds: float
    capabilities: tuple[str, ...] = ()
    """Optional features: `logprobs`, `prompt_logprobs`, `logit_bias`, `penalties`, `min_p`,
    `grammar`."""


class Stats(msgspec.Struct, frozen=True, tag="stats"):
    """Gauges of this moment, and counters (`*_total`) since the engine started."""

    running: int = 0
    waiting: int = 0
    blocks_used: int = 0
    blocks_total: int = 0
    steps_total: int = 0
    prompt_tokens_total: int = 0
    cached_tokens_total: int = 0
    generated_tokens_total: int = 0
    preemptions_total: int = 0
    suspended: tuple[int, ...] = ()
    """Ids of sequences that had begun and were set aside for lack of memory. They get no tokens
    until there is some again, and are no sign that the engine hangs."""


class Fatal(msgspec.Struct, frozen=True, tag="fatal"):
    """The last message of an engine process that cannot go on."""

    exit_code: int
    message: str


FromEngine = Step | Ready | Stats | Fatal
