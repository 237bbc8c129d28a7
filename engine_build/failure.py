"""Why a build stops: one line for a person, one exit code for a script."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The codes of sysexits.h, where one fits."""

    DATA = 65
    """A file has other contents than its manifest says."""
    MISSING = 66
    """A profile, a checkpoint or an engine is not there."""
    UNAVAILABLE = 69
    """This machine lacks what the profile needs: weights, a runtime, a device."""
    STORAGE = 74
    """A file could not be written: no space, no permission."""
    PRECISION = 77
    """The engine is further from its reference precision than the profile allows."""
    CONFIGURATION = 78
    """A profile is wrong: unknown key, wrong type, contradiction."""
    INTERRUPTED = 130
    """Stopped by Ctrl-C (128 + SIGINT)."""


class BuildError(Exception):
    """A build that cannot go on. The message names the file and the field; `advice` what to do."""

    def __init__(self, exit_code: ExitCode, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.message = message
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.message}. {self.advice}" if self.advice else self.message
