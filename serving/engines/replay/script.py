"""What a replay engine plays: `script.json` in its directory.

    {"pace_seconds": 0.002,
     "scenarios": [
       {"match": [976, 38], "steps": [{"do": "tokens", "ids": [1, 2]}, {"do": "die"}]},
       {"steps": [{"do": "repeat", "ids": [1, 2, 3]}]}]}

A sequence plays the first scenario whose `match` occurs in its prompt. When its steps are over it
finishes with "stop". `max_tokens` and the stop tokens of the request end it sooner, as with a real
runtime.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from serving.boundary.engine import EngineError
from serving.boundary.messages import ExitCode, FaultKind

SCRIPT_NAME = "script.json"

Seconds = Annotated[float, msgspec.Meta(ge=0)]
Ids = Annotated[tuple[int, ...], msgspec.Meta(min_length=1)]


class _Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="do"):
    """What steps have in common: the field `do` names the kind, and unknown fields are refused."""


class Tokens(_Part, frozen=True, tag="tokens"):
    """Generates these tokens."""

    ids: Ids


class Repeat(_Part, frozen=True, tag="repeat"):
    """Generates these tokens again and again; without `times` until something else ends it."""

    ids: Ids
    times: Annotated[int, msgspec.Meta(ge=1)] | None = None


class Echo(_Part, frozen=True, tag="echo"):
    """Generates the part of the prompt between the last `after` and the next `before`.

    An empty `after` starts at the first token, an empty `before` ends at the last.
    """

    after: tuple[int, ...] = ()
    before: tuple[int, ...] = ()


class Garbage(_Part, frozen=True, tag="garbage"):
    """Generates what no sane model does: ids outside the vocabulary, or one id for ever."""

    kind: Literal["out_of_range", "repeated"] = "out_of_range"
    times: Annotated[int, msgspec.Meta(ge=1)] = 8


class Delay(_Part, frozen=True, tag="delay"):
    """Generates nothing for a while; other sequences go on."""

    seconds: Seconds


class Stall(_Part, frozen=True, tag="stall"):
    """Generates nothing ever again; the sequence stays until it is aborted."""


class Suspend(_Part, frozen=True, tag="suspend"):
    """The engine sets this sequence aside for a while, and says so; other sequences go on."""

    seconds: Seconds


class SlowAbort(_Part, frozen=True, tag="slow_abort"):
    """From now on an abort of this sequence blocks the engine for this long."""

    seconds: Seconds


class Raise(_Part, frozen=True, tag="raise"):
    """Ends this sequence with a fault; the engine is well."""

    kind: FaultKind
    message: str = "The script raised this fault."


class Exhaust(_Part, frozen=True, tag="exhaust"):
    """The next `times` engine steps fail for lack of memory."""

    times: Annotated[int, msgspec.Meta(ge=1)] = 1


class Fail(_Part, frozen=True, tag="fatal"):
    """The runtime reports that it cannot go on."""

    message: str = "The script ended the engine."
    exit_code: int = ExitCode.FATAL


class Die(_Part, frozen=True, tag="die"):
    """The process is gone at once: with an exit code, or by a signal (9: killed)."""

    exit_code: int | None = None
    signal: int = 9


class Freeze(_Part, frozen=True, tag="freeze"):
    """The engine makes no more steps though it answers; for `seconds`, or for ever."""

    seconds: Seconds | None = None


class Hang(_Part, frozen=True, tag="hang"):
    """The engine loop blocks and answers nothing; for `seconds`, or for ever."""

    seconds: Seconds | None = None


ScriptStep = (
    Tokens
    | Repeat
    | Echo
    | Garbage
    | Delay
    | Stall
    | Suspend
    | SlowAbort
    | Raise
    | Exhaust
    | Fail
    | Die
    | Freeze
    | Hang
)


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The life of one sequence. An empty `match` fits every prompt."""

    steps: tuple[ScriptStep, ...]
    match: tuple[int, ...] = ()


class Refuse(_Part, frozen=True, tag="refuse"):
    """The engine does not belong on this machine."""

    message: str = "The script refuses to start."


LoadStep = Delay | Hang | Refuse | Fail | Die


class Script(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    scenarios: Annotated[tuple[Scenario, ...], msgspec.Meta(min_length=1)]
    load: tuple[LoadStep, ...] = ()
    """What happens before the engine is ready."""
    pace_seconds: Seconds = 0.0
    """Time from one engine step to the next, on a schedule that does not drift; 0: at once."""
    tokens_per_step: Annotated[int, msgspec.Meta(ge=1)] = 1
    """What a running sequence gets in a step, as with speculative decoding."""
    prefill_tokens_per_second: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """How fast prompts are read, one after the other, cached tokens apart; None: at once."""
    keeps_to_grammars: bool = False
    """The engine says that it can hold answers to grammars; that they fit is the script's doing."""


def encode(script: Script) -> bytes:
    """Returns the script as the JSON that `read` takes."""
    return msgspec.json.encode(script)


def read(directory: Path) -> Script:
    """Returns the script of a replay engine. Raises EngineError that names the file and field."""
    path = directory / SCRIPT_NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Script)
    except FileNotFoundError:
        raise EngineError(f"{path} is missing: a replay engine plays it") from None
    except OSError as error:
        raise EngineError(f"{path} cannot be read: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise EngineError(f"{path}: {error}") from None
