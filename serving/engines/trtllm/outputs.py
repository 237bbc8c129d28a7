"""From what an iteration of a request brought to an `Output`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from serving.boundary.messages import Fault, FaultKind, Finish, Logprob, Output
from serving.engines.trtllm.library import Completion, Result, TokenLogprob

LEAST_LOGPROB = -9999.0
"""What is reported for a probability of zero; minus infinity has no JSON."""

_FINISHES: dict[str, Finish] = {"stop": "stop", "length": "length", "cancelled": "aborted"}
FAILED = "The engine failed while it worked on this request."
UNGUIDED = "The engine cannot hold the answer to this request's schema or grammar."


def read(sequence_id: int, result: Result, logprobs: int | None, *, first: bool) -> Output | None:
    """Returns what the latest iteration brought, None for nothing.

    `logprobs` is how many alternatives were asked for. Raises ValueError when TensorRT-LLM breaks
    its own rules: another number of log-probabilities than of tokens, an unknown finish.
    """
    completion = result.outputs[0]
    tokens = list(completion.token_ids_diff)
    finish = _finish(completion)
    if not tokens and not finish:
        return None
    return Output(
        sequence_id,
        tokens,
        finish,
        cached_tokens=result.cached_tokens if first else 0,
        logprobs=None if logprobs is None else _logprobs(tokens, completion, logprobs),
        fault=Fault("internal", FAILED) if finish == "error" else None,
    )


def failure(sequence_id: int, kind: FaultKind, message: str) -> Output:
    """Returns the output that ends a sequence with a fault."""
    return Output(sequence_id, [], "error", fault=Fault(kind, message))


def _finish(completion: Completion) -> Finish:
    reason = completion.finish_reason
    if reason is None:
        return ""
    if reason == "timeout":
        return "error"  # Deadlines are the API process's; TensorRT-LLM is given none.
    if reason not in _FINISHES:
        raise ValueError(f"unknown finish_reason {reason!r}")
    return _FINISHES[reason]


def _logprobs(tokens: list[int], completion: Completion, alternatives: int) -> list[Logprob]:
    entries = completion.logprobs_diff
    if len(entries) != len(tokens):
        raise ValueError(f"{len(entries)} log-probabilities for {len(tokens)} tokens")
    return [
        _logprob(token, entry, alternatives) for token, entry in zip(tokens, entries, strict=True)
    ]


def _logprob(token: int, entry: Mapping[int, TokenLogprob], alternatives: int) -> Logprob:
    likeliest: Sequence[tuple[int, float]] = sorted(
        ((candidate, _finite(value.logprob)) for candidate, value in entry.items()),
        key=lambda pair: -pair[1],
    )
    return Logprob(_finite(entry[token].logprob), list(likeliest[:alternatives]))


def _finite(logprob: float) -> float:
    return max(logprob, LEAST_LOGPROB)
