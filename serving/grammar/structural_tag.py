"""What an answer may look like, as one structural tag (xgrammar's JSON) for every runtime.

The tag covers everything that the model writes after `<|start|>assistant`: messages in the analysis
channel are free, however many, and so are preambles where the answer may be a call. Then comes one
end: a tool call, whose header and arguments are constrained, or a final message, whose body is.
Control tokens are given by id, so no text can stand for one, and none can come where it has no
meaning. The engine allows a stop token where the tag ends, and only there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from serving.grammar.constraint import Constraint, ToolForm
from serving.grammar.wording import in_other_words
from serving.harmony.vocabulary import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    END_OF_PROMPT,
    END_OF_TEXT,
    MESSAGE,
    RETURN,
    START,
    START_OF_TEXT,
)

MOST_BLANKS: Final = 16
"""White space in a row between the parts of a JSON text: a model can fall into endless spaces. Each
more costs the compiler 3 ms and the compiled grammar 0.4 MB."""

ANY_OBJECT: Final[dict[str, Any]] = {"type": "object", "additionalProperties": True}

_CONTROL: Final = (
    *(START_OF_TEXT, END_OF_TEXT, RETURN, CONSTRAIN, CHANNEL),
    *(START, END, MESSAGE, CALL, END_OF_PROMPT),
)

Format = dict[str, Any]


def structural_tag(constraint: Constraint) -> str | None:
    """Returns the tag as JSON, equal for equal constraints; None when nothing is constrained.

    Raises ValueError for a constraint that nothing can meet: a call, and nothing to call.
    """
    if not constraint.binds:
        return None
    if constraint.must_call and not (constraint.tools or constraint.built_in):
        raise ValueError("a call is required, but there is no tool")
    ends = [_call(tool) for tool in constraint.tools]
    ends += [_built_in_call(recipient) for recipient in constraint.built_in]
    if not constraint.must_call:
        body = _free() if constraint.schema is None else _json(constraint.schema)
        ends.append(_sequence(_token(CHANNEL), _text("final"), _mark(), _token(MESSAGE), body))
    # What is before an answer in JSON is not part of it: a preamble would be shown as content.
    channels = ["analysis"] if constraint.schema is not None else ["analysis", "commentary"]
    before = {"type": "star", "content": _either([_message(channel) for channel in channels])}
    tag = {"type": "structural_tag", "format": _sequence(before, _either(ends))}
    return msgspec.json.encode(tag).decode()


def _message(channel: str) -> Format:
    """A whole message of free text, and the start of the next."""
    return _sequence(
        *(_token(CHANNEL), _text(channel), _token(MESSAGE), _free()),
        *(_token(END), _token(START), _text("assistant")),
    )


def _call(tool: ToolForm) -> Format:
    """A call, with the recipient in the role or in the channel: the model writes both."""
    recipient = f" to=functions.{tool.name}"
    header = _either(
        [
            _sequence(_text(recipient), _token(CHANNEL), _text("commentary")),
            _sequence(_token(CHANNEL), _text("commentary" + recipient)),
        ]
    )
    arguments = _free() if tool.schema is None else _json(tool.schema)
    return _sequence(header, _mark(), _token(MESSAGE), arguments)


def _built_in_call(recipient: str) -> Format:
    """A call of a built-in tool: code as it is, or arguments in JSON."""
    to = f" to={recipient}"
    header = _either(
        [
            _sequence(_text(to), _token(CHANNEL), _text("analysis")),
            _sequence(_token(CHANNEL), _text("analysis" + to)),
        ]
    )
    kind = {"type": "optional", "content": _text(" code")}
    body = _free() if recipient == "python" else _json(ANY_OBJECT)
    return _sequence(header, kind, _token(MESSAGE), body)


def _mark() -> Format:
    """The content type that the model puts before JSON, or nothing."""
    return {
        "type": "optional",
        "content": _sequence(_text(" "), _token(CONSTRAIN), _text("json")),
    }


def _json(schema: dict[str, Any]) -> Format:
    held = in_other_words(schema)
    return {"type": "json_schema", "json_schema": held, "max_whitespace_cnt": MOST_BLANKS}


def _free() -> Format:
    return {"type": "any_tokens", "exclude_tokens": list(_CONTROL)}


def _token(token: int) -> Format:
    return {"type": "token", "token": token}


def _text(text: str) -> Format:
    return {"type": "const_string", "value": text}


def _sequence(*elements: Format) -> Format:
    return {"type": "sequence", "elements": list(elements)}


def _either(options: Sequence[Format]) -> Format:
    return options[0] if len(options) == 1 else {"type": "or", "elements": list(options)}
