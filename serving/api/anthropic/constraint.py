"""What an Anthropic request binds its answer to: tool choice, strict tools, the output's format."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from serving.api.anthropic.schema import CountTokensRequest
from serving.api.chat.constraint import Binding, check_schema, fits
from serving.errors import ErrorKind, ServingError
from serving.harmony.grammar import ANY_OBJECT, structural_tag
from serving.harmony.json_schema import Bounds
from serving.job import Constraint, ToolForm
from serving.settings import Limits

FORMAT_NAME = "output"
"""What the model is told that the schema of its answer is called."""

_FORMAT = "output_config.format"


def bind(request: CountTokensRequest, limits: Limits, *, constrains: bool) -> Binding | None:
    """Returns what the answer is bound to, None when it is free. Raises ServingError.

    `constrains`: whether the service can hold an answer to a grammar.
    """
    asking = list(_asking(request))
    if not asking:
        return None
    if not constrains:
        raise ServingError(
            ErrorKind.UNSUPPORTED,
            f"'{asking[0]}' needs constrained decoding, which this engine does not have.",
            param=asking[0],
        )
    bounds = Bounds(bytes_max=limits.schema_bytes, depth_max=limits.schema_depth)
    schema = output_schema(request)
    if schema is not None:
        check_schema(schema, f"{_FORMAT}.schema", bounds)
    constraint = Constraint(
        tools=tuple(_tools(request, bounds)), must_call=_must_call(request), schema=schema
    )
    grammar = structural_tag(constraint)
    return None if grammar is None else Binding(constraint, grammar, asking[0])


def output_schema(request: CountTokensRequest) -> dict[str, Any] | None:
    """Returns the schema that the answer must fit, if there is one."""
    form = request.output_config and request.output_config.format
    return form.definition if form else None


def _must_call(request: CountTokensRequest) -> bool:
    return request.tool_choice is not None and request.tool_choice.type in ("any", "tool")


def _asking(request: CountTokensRequest) -> Iterable[str]:
    """Yields the fields that ask for constrained decoding."""
    if output_schema(request) is not None:
        yield _FORMAT
    if request.tool_choice is not None and request.tool_choice.type == "none":
        return
    if _must_call(request):
        yield "tool_choice"
    for index, tool in enumerate(request.tools or ()):
        if tool.strict:
            yield f"tools[{index}].strict"


def _tools(request: CountTokensRequest, bounds: Bounds) -> Iterable[ToolForm]:
    """Yields the tools that may be called, with what their input is held to, as in a chat."""
    choice = request.tool_choice
    if choice is not None and choice.type == "none":
        return
    only = choice.name if choice is not None and choice.type == "tool" else None
    tools = request.tools or ()
    if only is not None and only not in {tool.name for tool in tools}:
        raise ServingError(
            ErrorKind.INVALID_VALUE,
            "'tool_choice.name' names no tool of 'tools'.",
            param="tool_choice.name",
        )
    for index, tool in enumerate(tools):
        schema: dict[str, Any] | None = None
        if tool.strict:
            check_schema(tool.input_schema, f"tools[{index}].input_schema", bounds)
            schema = tool.input_schema
        elif _must_call(request):
            schema = tool.input_schema if fits(tool.input_schema, bounds) else ANY_OBJECT
        if only in (None, tool.name):
            yield ToolForm(name=tool.name, schema=schema)
