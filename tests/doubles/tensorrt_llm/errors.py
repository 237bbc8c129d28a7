"""The errors of tensorrt_llm/executor/utils.py."""

from __future__ import annotations


class RequestError(RuntimeError):
    """One request failed."""


class EngineDeadError(RuntimeError):
    """A worker died; every request fails with it, now and later."""

    def __init__(self, root_cause: BaseException | None = None) -> None:
        message = "Engine has died"
        if root_cause is not None:
            message += f": {type(root_cause).__name__}: {root_cause}"
        super().__init__(message)
        self.root_cause = root_cause
