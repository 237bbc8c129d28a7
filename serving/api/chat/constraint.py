"""What a chat request binds its answer to: tool choice, strict functions, the form of the answer.

What needs constrained decoding is refused, by the name of the field, where the service has none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from serving.api.chat.built_in import NO_BUILT_IN, BuiltInUse
from serving.api.chat.schema import AllowedTools, ChatRequest, NamedTool, ToolChoice
from serving.errors import ErrorKind, ServingError
from serving.harmony.grammar import ANY_OBJECT, structural_tag
from serving.harmony.json_schema import Bounds, SchemaError, check
from serving.job import Constraint, ToolForm
from serving.settings import Limits

NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}}
"""The schema of a function without `parameters`."""

_FORMAT = "response_format"
_FORMAT_SCHEMA = "response_format.json_schema.schema"


class Binding(NamedTuple):
    """A constraint, its structural tag, and the field that an error of its compilation names."""

    constraint: Constraint
    grammar: str
    param: str


def bind(
    request: ChatRequest, limits: Limits, *, constrains: bool, use: BuiltInUse = NO_BUILT_IN
) -> Binding | None:
    """Returns what the answer is bound to, None when it is free. Raises ServingError.

    `constrains`: whether the service can hold an answer to a grammar. `use`: the built-in tools
    that it may call on the way.
    """
    require_tools_for_choice(request)
    asking = list(_asking(request, use))
    if asking and not constrains:
        raise ServingError(
            ErrorKind.UNSUPPORTED,
            f"'{asking[0]}' needs constrained decoding, which this engine does not have.",
            param=asking[0],
        )
    if not asking:
        return None
    if request.ignore_eos or request.min_tokens:
        field = "ignore_eos" if request.ignore_eos else "min_tokens"
        raise ServingError(
            ErrorKind.INVALID_VALUE,
            f"'{field}' cannot be combined with '{asking[0]}': the answer ends where that says.",
            param=field,
        )
    bounds = Bounds(bytes_max=limits.schema_bytes, depth_max=limits.schema_depth)
    constraint = Constraint(
        tools=() if use.alone else tuple(_tools(request, bounds)),
        built_in=tuple(sorted(use.callable)),
        must_call=must_call(request) or use.must_call,
        limits_tools=isinstance(request.tool_choice, AllowedTools) or use.limits,
        schema=_answer_schema(request, bounds),
    )
    grammar = structural_tag(constraint)
    return None if grammar is None else Binding(constraint, grammar, asking[0])


def require_tools_for_choice(request: ChatRequest) -> None:
    """Raises ServingError for a choice among no tools."""
    if request.tools is None and request.tool_choice not in (None, "none"):
        raise ServingError(
            ErrorKind.INVALID_VALUE, "'tool_choice' needs 'tools'.", param="tool_choice"
        )


def must_call(request: ChatRequest) -> bool:
    """Returns whether the answer must be a call."""
    choice = request.tool_choice
    if isinstance(choice, AllowedTools):
        return choice.mode == "required"
    return choice == "required" or isinstance(choice, NamedTool)


def freed_choice(choice: ToolChoice | None) -> ToolChoice | None:
    """Returns the choice that is left when the call which it asks for has been made."""
    if isinstance(choice, AllowedTools):
        allowed = choice.allowed_tools.model_copy(update={"mode": "auto"})
        return choice.model_copy(update={"allowed_tools": allowed})
    return "auto" if choice == "required" else choice


def response_formats(request: ChatRequest) -> dict[str, dict[str, Any]]:
    """Returns the section of the developer message that tells the model the answer's schema."""
    form = request.response_format
    if form is None or form.json_schema is None or form.json_schema.definition is None:
        return {}
    return {form.json_schema.name: form.json_schema.definition}


def _asking(request: ChatRequest, use: BuiltInUse) -> Iterable[str]:
    """Yields the fields that ask for constrained decoding."""
    form = request.response_format
    if form is not None and form.type != "text":
        yield _FORMAT
    if request.tool_choice == "none":
        return
    if request.tool_choice not in (None, "auto") or use.limits:
        yield "tool_choice"
    for index, tool in enumerate(request.tools or ()):
        if tool.definition.strict:
            yield f"tools[{index}].function.strict"


def _answer_schema(request: ChatRequest, bounds: Bounds) -> dict[str, Any] | None:
    form = request.response_format
    if form is None or form.type == "text":
        return None
    if form.json_schema is None or form.json_schema.definition is None:
        return ANY_OBJECT
    check_schema(form.json_schema.definition, _FORMAT_SCHEMA, bounds)
    return form.json_schema.definition


def _tools(request: ChatRequest, bounds: Bounds) -> Iterable[ToolForm]:
    """Yields the functions that may be called, with what their arguments are held to.

    A strict one's are held to its schema. Those of a forced call are held to it too where it can
    be, else to being an object: a call that had to be made can then at least be read.
    """
    if request.tool_choice == "none":
        return
    callable_names = _callable_names(request)
    for index, tool in enumerate(request.tools or ()):
        function = tool.definition
        parameters = NO_ARGUMENTS if function.parameters is None else function.parameters
        schema: dict[str, Any] | None = None
        if function.strict:
            check_schema(parameters, f"tools[{index}].function.parameters", bounds)
            schema = parameters
        elif must_call(request):
            schema = parameters if fits(parameters, bounds) else ANY_OBJECT
        if function.name in callable_names:
            yield ToolForm(name=function.name, schema=schema)


def _callable_names(request: ChatRequest) -> set[str]:
    """Returns the functions that the tool choice leaves. Raises ServingError for unknown ones."""
    offered = {tool.definition.name for tool in request.tools or ()}
    choice = request.tool_choice
    if isinstance(choice, NamedTool):
        named = {choice.name: "tool_choice.function.name"}
    elif isinstance(choice, AllowedTools):
        named = {
            name: f"tool_choice.allowed_tools.tools[{index}].function.name"
            for index, name in enumerate(choice.names)
        }
    else:
        return offered
    for name, param in named.items():
        if name not in offered:
            raise ServingError(
                ErrorKind.INVALID_VALUE, f"'{param}' names no function of 'tools'.", param=param
            )
    return set(named)


def fits(schema: dict[str, Any], bounds: Bounds) -> bool:
    """Returns whether arguments can be held to a schema."""
    try:
        check(schema, "", bounds)
    except SchemaError:
        return False
    return schema.get("type") == "object"


def check_schema(schema: dict[str, Any], param: str, bounds: Bounds) -> None:
    """Raises ServingError, naming the place in the schema at `param`, unless it can be held."""
    try:
        check(schema, param, bounds)
    except SchemaError as error:
        kind = ErrorKind.INVALID_VALUE if error.supported else ErrorKind.UNSUPPORTED
        message = f"'{error.path}' {error.message}."
        raise ServingError(kind, message, param=error.path) from None
