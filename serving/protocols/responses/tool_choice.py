"""What a Responses request lets the model call: functions, and built-in tools."""

from __future__ import annotations

from typing import Any

from serving.errors import ErrorKind, ServingError
from serving.generation.request import NO_BUILT_IN, BuiltInUse, Function, ToolChoice
from serving.harmony.built_in import RECIPIENTS, recipients
from serving.harmony.conversation import BuiltInName, BuiltInTool
from serving.protocols.responses.schema import PromptFields
from serving.protocols.responses.tools import (
    AllowedTools,
    ChosenFunction,
    ChosenHosted,
    FunctionTool,
    hosted_name,
)
from serving.tools.executors import Toolbox

_Offered = dict[BuiltInName, BuiltInTool]


def functions_of(request: PromptFields) -> tuple[Function, ...]:
    """Returns the functions of a request."""
    return tuple(
        Function(
            name=tool.name,
            description=tool.description or "",
            parameters=tool.parameters,
            strict=bool(tool.strict),
            place=f"tools[{index}]",
            parameters_place=f"tools[{index}].parameters",
        )
        for index, tool in enumerate(request.tools or ())
        if isinstance(tool, FunctionTool)
    )


def has_hosted_tools(request: PromptFields) -> bool:
    """Returns whether a request has tools that the service runs."""
    return any(not isinstance(tool, FunctionTool) for tool in request.tools or ())


def tool_use(request: PromptFields, toolbox: Toolbox) -> tuple[BuiltInUse, ToolChoice | None]:
    """Returns the built-in tools of a request, and its choice among functions.

    Raises ServingError for a tool that has no executor here, and for a choice that is not offered.
    """
    offered: _Offered = {}
    for index, tool in enumerate(request.tools or ()):
        if not isinstance(tool, FunctionTool):
            offered[tool.built_in] = toolbox.require(tool.built_in, f"tools[{index}].type")
    choice, tools = request.tool_choice, tuple(offered.values())
    has_functions = len(offered) < len(request.tools or ())
    if isinstance(choice, ChosenFunction):
        only = ((choice.name, "tool_choice.name"),)
        return BuiltInUse(tools), ToolChoice(mode="required", only=only)
    if isinstance(choice, ChosenHosted):
        called = RECIPIENTS[_require(choice.model_dump(), offered, "tool_choice")]
        return BuiltInUse(tools, called, must_call=True, alone=True, once=True), None
    if isinstance(choice, AllowedTools):
        return _among(choice, offered)
    # Without functions, `auto` and `none` change nothing, and `required` means the built-in tools.
    speaks = has_functions or (choice == "required" and not tools)
    left = ToolChoice(mode=choice) if choice is not None and speaks else None
    if not tools or choice == "none":
        return NO_BUILT_IN, left
    must_call = choice == "required" and not has_functions
    return BuiltInUse(tools, recipients(tools), must_call=must_call), left


def _among(choice: AllowedTools, offered: _Offered) -> tuple[BuiltInUse, ToolChoice | None]:
    """Returns the use under a choice among some of the tools."""
    tools = tuple(offered.values())
    hosted: set[BuiltInName] = set()
    named: list[tuple[str, str]] = []
    for index, entry in enumerate(choice.tools):
        place = f"tool_choice.tools[{index}]"
        if entry.get("type") == "function" and isinstance(name := entry.get("name"), str):
            named.append((name, f"{place}.name"))
        else:
            hosted.add(_require(entry, offered, place))
    left = ToolChoice(mode=choice.mode, only=tuple(named)) if named else None
    if not hosted:
        return BuiltInUse(tools), left
    called = frozenset().union(*(RECIPIENTS[name] for name in hosted))
    must_call = choice.mode == "required" and not named
    return BuiltInUse(tools, called, must_call=must_call, alone=not named), left


def _require(entry: dict[str, Any], offered: _Offered, place: str) -> BuiltInName:
    """Returns the built-in tool that an entry names. Raises ServingError unless it is offered."""
    name = hosted_name(entry)
    if name is None or name not in offered:
        raise ServingError(
            ErrorKind.INVALID_VALUE, f"'{place}' names no tool of 'tools'.", param=place
        )
    return name
