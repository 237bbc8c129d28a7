"""What an answer is held to: tool choice, strict functions, the format of the answer.

What needs constrained decoding is refused, by the place that asks for it, where there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from serving.boundary.sampling import Sampling
from serving.errors import ErrorKind, ServingError
from serving.generation.request import Dialogue, Function, ToolChoice
from serving.grammar.constraint import Constraint, ToolForm
from serving.grammar.json_schema import Bounds, SchemaError, check
from serving.grammar.structural_tag import ANY_OBJECT, structural_tag
from serving.settings import Limits

NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}}
"""The schema of a function without `parameters`."""

_TOOL_CHOICE = "tool_choice"
_FREE = ToolChoice(mode="auto")


class Binding(NamedTuple):
    """What an answer is held to, as a constraint and as its structural tag, and the place that an
    error of its compilation names.

    `later` is what holds the answer after a call of a built-in tool, None for nothing.
    """

    constraint: Constraint | None = None
    grammar: str | None = None
    place: str | None = None
    later: Constraint | None = None


def bind(dialogue: Dialogue, sampling: Sampling, limits: Limits, *, constrains: bool) -> Binding:
    """Returns what the answer is held to. Raises ServingError.

    `constrains`: whether the engine can hold an answer to a grammar.
    """
    asking = next(_asking(dialogue), None)
    if asking is None:
        return Binding()
    if not constrains:
        raise ServingError(
            ErrorKind.UNSUPPORTED,
            f"'{asking}' needs constrained decoding, which this engine does not have.",
            param=asking,
        )
    if sampling.ignore_eos or sampling.min_tokens:
        field = "ignore_eos" if sampling.ignore_eos else "min_tokens"
        raise ServingError(
            ErrorKind.INVALID_VALUE,
            f"'{field}' cannot be combined with '{asking}': the answer ends where that says.",
            param=field,
        )
    bounds = Bounds(bytes_max=limits.schema_bytes, depth_max=limits.schema_depth)
    constraint = _binding(_constraint(dialogue, bounds))
    later = None
    if dialogue.built_in.callable:
        later = _binding(_constraint(_freed(dialogue), bounds))
    grammar = None if constraint is None else structural_tag(constraint)
    return Binding(constraint, grammar, asking, later)


def require_tools(dialogue: Dialogue, limits: Limits) -> None:
    """Raises ServingError for a choice among no tools, and for definitions that are too large."""
    choice, functions = dialogue.tool_choice, dialogue.functions
    if choice is not None and choice.mode != "none" and not functions:
        raise ServingError(
            ErrorKind.INVALID_VALUE, "'tool_choice' needs 'tools'.", param=_TOOL_CHOICE
        )
    definitions = [
        (function.name, function.description, function.parameters) for function in functions
    ]
    if len(msgspec.json.encode(definitions)) > limits.tool_schema_bytes:
        raise ServingError(
            ErrorKind.INVALID_VALUE,
            f"'tools' may have {limits.tool_schema_bytes} bytes of definitions at most.",
            param="tools",
        )


def offered(dialogue: Dialogue) -> tuple[Function, ...]:
    """Returns the functions that the model is shown: none, where it may call none."""
    choice = dialogue.tool_choice
    return () if choice is not None and choice.mode == "none" else dialogue.functions


def _asking(dialogue: Dialogue) -> Iterator[str]:
    """Yields the places that ask for constrained decoding."""
    if dialogue.format is not None:
        yield dialogue.format.place
    choice = dialogue.tool_choice or _FREE
    if choice.mode == "none":
        return
    if choice.mode == "required" or choice.only is not None or dialogue.built_in.limits:
        yield _TOOL_CHOICE
    for function in dialogue.functions:
        if function.strict:
            yield f"{function.place}.strict"


def _constraint(dialogue: Dialogue, bounds: Bounds) -> Constraint:
    use, choice = dialogue.built_in, dialogue.tool_choice or _FREE
    return Constraint(
        tools=() if use.alone else tuple(_forms(dialogue, choice, bounds)),
        built_in=tuple(sorted(use.callable)),
        must_call=choice.mode == "required" or use.must_call,
        limits_tools=choice.only is not None or use.limits,
        schema=_answer_schema(dialogue, bounds),
    )


def _binding(constraint: Constraint) -> Constraint | None:
    """Returns a constraint, or None for one that any answer meets."""
    return constraint if constraint.binds else None


def _freed(dialogue: Dialogue) -> Dialogue:
    """Returns the dialogue as it is held after the forced call."""
    choice = dialogue.tool_choice
    if choice is not None and choice.mode == "required":
        choice = replace(choice, mode="auto")
    return replace(dialogue, tool_choice=choice, built_in=dialogue.built_in.freed())


def _answer_schema(dialogue: Dialogue, bounds: Bounds) -> dict[str, Any] | None:
    form = dialogue.format
    if form is None:
        return None
    if form.schema is None:
        return ANY_OBJECT
    _require_held(form.schema, form.schema_place, bounds)
    return form.schema


def _forms(dialogue: Dialogue, choice: ToolChoice, bounds: Bounds) -> Iterator[ToolForm]:
    """Yields the functions that may be called, with what their arguments are held to.

    A strict one's are held to its schema. Those of a forced call are held to it too where it can
    be, else to being an object: a call that had to be made can then at least be read.
    """
    callable_names = _callable_names(dialogue, choice)
    for function in offered(dialogue):
        parameters = NO_ARGUMENTS if function.parameters is None else function.parameters
        schema: dict[str, Any] | None = None
        if function.strict:
            _require_held(parameters, function.parameters_place, bounds)
            schema = parameters
        elif choice.mode == "required":
            schema = parameters if _can_be_held(parameters, bounds) else ANY_OBJECT
        if function.name in callable_names:
            yield ToolForm(name=function.name, schema=schema)


def _callable_names(dialogue: Dialogue, choice: ToolChoice) -> set[str]:
    """Returns the functions that the tool choice leaves. Raises ServingError for unknown ones."""
    names = {function.name for function in dialogue.functions}
    if choice.only is None:
        return names
    for name, place in choice.only:
        if name not in names:
            raise ServingError(
                ErrorKind.INVALID_VALUE, f"'{place}' names no tool of 'tools'.", param=place
            )
    return {name for name, _ in choice.only}


def _can_be_held(schema: dict[str, Any], bounds: Bounds) -> bool:
    """Returns whether arguments can be held to a schema."""
    try:
        check(schema, "", bounds)
    except SchemaError:
        return False
    return schema.get("type") == "object"


def _require_held(schema: dict[str, Any], place: str, bounds: Bounds) -> None:
    """Raises ServingError, naming the place in the schema at `place`, unless it can be held."""
    try:
        check(schema, place, bounds)
    except SchemaError as error:
        kind = ErrorKind.INVALID_VALUE if error.supported else ErrorKind.UNSUPPORTED
        raise ServingError(kind, f"'{error.path}' {error.message}.", param=error.path) from None
