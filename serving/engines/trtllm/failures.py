"""What TensorRT-LLM's errors mean: for one request, or for the engine process.

Its errors cross processes as text, so they are told apart by text. Where the texts come from:
torch ("CUDA out of memory", "CUDA error: ..."), pyexecutor/_util.py since pull request 4497 ("an
error which might indicate insufficient GPU memory"), runtime/ncclCommunicator.cpp ("NCCL error"),
executor/utils.py ("Engine has died: ...", class EngineDeadError), executor/proxy.py ("Executor
worker died during initialization", "rank N (pid P) exited unexpectedly"), pyexecutor/py_executor.py
("Hang detected on rank N"; since autumn 2026 it only logs this, and kills the ranks, so that a hang
arrives as a lost worker). executor/utils.py has these errors and texts in 1.3.0rc29, too, and
EngineDeadError in 1.4.0rc4. "Guided decoding error: ..." is of one request (pull request 9078):
its grammar does not compile, or has come to where no token may follow (pull request 18896); but
"Guided decoding error: internal error in ..." fails all of a batch, and none of them is to blame
(pyexecutor/guided_decoder.py of the main branch, autumn 2026).
"""

from __future__ import annotations

import re

from serving.boundary.contract import FatalError
from serving.boundary.messages import ExitCode

_MEANINGS: tuple[tuple[ExitCode, re.Pattern[str]], ...] = tuple(
    (code, re.compile(pattern, re.IGNORECASE))
    # In this order: a rank that runs out of memory makes NCCL fail and its process die.
    for code, pattern in (
        (
            ExitCode.OUT_OF_MEMORY,
            r"out of memory|OutOfMemoryError|cudaErrorMemoryAllocation|insufficient GPU memory",
        ),
        (ExitCode.HUNG, r"hang detected"),
        (ExitCode.COMMUNICATION, r"\bNCCL|nccl(Communicator|\w*Error)|MPI_ERR"),
        (
            ExitCode.WORKER_LOST,
            r"EngineDeadError|engine has died|exited unexpectedly|worker died|MPI_Abort"
            r"|BrokenProcessPool|process pool was terminated",
        ),
        (
            ExitCode.FATAL,
            r"CUDA (driver |runtime )?error|cudaError|illegal memory access|device-side assert"
            r"|unspecified launch failure|CUBLAS_STATUS|LLM is shutting down|Xid",
        ),
    )
)

_GUIDED = re.compile(r"Guided decoding error: (?!internal error)")

_DETAIL_CHARACTERS = 2000


def describe(error: BaseException) -> str:
    """Returns the error and its causes, one a line, for the operator."""
    lines: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        lines.append(f"{type(current).__name__}: {current}")
        cause = getattr(current, "root_cause", None)
        current = cause if isinstance(cause, BaseException) else current.__cause__
    return "\n".join(lines)[:_DETAIL_CHARACTERS]


def meaning(detail: str) -> ExitCode | None:
    """Returns with which code the process must leave, None when the engine is not at fault."""
    return next((code for code, pattern in _MEANINGS if pattern.search(detail)), None)


def unguided(detail: str) -> bool:
    """Tells whether a request failed because no answer can be held to its schema or grammar."""
    return _GUIDED.search(detail) is not None


def refuses(error: BaseException) -> bool:
    """Tells whether an error that a submission raised is about the request and not the engine."""
    return isinstance(error, ValueError) or type(error).__name__ == "RequestError"


def fatal(error: BaseException, doing: str) -> FatalError:
    """Returns the error that ends the process. `doing` says what failed, as in "loading"."""
    detail = describe(error)
    return FatalError(f"{doing}: {detail}", meaning(detail) or ExitCode.FATAL)


def public(error: BaseException) -> str:
    """Returns why a request was refused, fit for its client: one line, no path."""
    line = str(error).strip().partition("\n")[0]
    if not line or len(line) > 300 or "/" in line or "\\" in line:
        return "The engine does not take this request."
    return f"The engine does not take this request: {line}"
