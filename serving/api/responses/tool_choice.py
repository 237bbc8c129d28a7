"""What a Responses request lets the model call: functions, in words of chat, and built-in tools."""

from __future__ import annotations

from typing import Any

from serving.api.chat.built_in import NO_BUILT_IN, BuiltInUse
from serving.api.responses.schema import PromptFields
from serving.api.responses.tools import FunctionTool, hosted_name
from serving.errors import ErrorKind, ServingError
from serving.harmony.built_in import RECIPIENTS, recipients
from serving.harmony.conversation import BuiltInName, BuiltInTool
from serving.tools.executors import Toolbox

Json = dict[str, Any]


def functions_of(request: PromptFields) -> dict[int, FunctionTool]:
    """Returns the functions of a request by their places in `tools`."""
    tools = enumerate(request.tools or ())
    return {index: tool for index, tool in tools if isinstance(tool, FunctionTool)}


def has_hosted_tools(request: PromptFields) -> bool:
    """Returns whether a request has tools that the service has run."""
    return any(not isinstance(tool, FunctionTool) for tool in request.tools or ())


def built_in_use(request: PromptFields, toolbox: Toolbox) -> BuiltInUse:
    """Returns the built-in tools of a request, and what `tool_choice` says of them.

    Raises ServingError for a tool that has no executor here, and for a choice that is not offered.
    """
    offered: dict[BuiltInName, BuiltInTool] = {}
    for index, tool in enumerate(request.tools or ()):
        if not isinstance(tool, FunctionTool):
            offered[tool.built_in] = toolbox.require(tool.built_in, f"tools[{index}].type")
    choice = request.tool_choice
    tools = tuple(offered.values())
    if isinstance(choice, dict):
        return _chosen(choice, request, offered)
    if not tools or choice == "none":
        return NO_BUILT_IN
    # Where there are functions, what they are held to lets a built-in call through too.
    must_call = choice == "required" and not functions_of(request)
    return BuiltInUse(tools, recipients(tools), must_call=must_call)


def chat_tool_choice(request: PromptFields, use: BuiltInUse) -> Any:
    """Returns what `tool_choice` says of functions, as a chat request does."""
    choice = request.tool_choice
    if use.alone or use.must_call:
        return None
    if choice in ("auto", "none") and not functions_of(request):
        return None  # these may stand without tools here
    return _in_chat(choice)


def _chosen(
    choice: Json, request: PromptFields, offered: dict[BuiltInName, BuiltInTool]
) -> BuiltInUse:
    """Returns the use under a choice that names tools."""
    tools = tuple(offered.values())
    if choice["type"] == "function":
        return BuiltInUse(tools)
    if choice["type"] != "allowed_tools":
        called = RECIPIENTS[_require(choice, offered, "tool_choice")]
        return BuiltInUse(tools, called, must_call=True, alone=True, once=True)
    entries = choice.get("tools")
    entries = entries if isinstance(entries, list) else []
    hosted = {
        _require(entry, offered, f"tool_choice.tools[{index}]")
        for index, entry in enumerate(entries)
        if isinstance(entry, dict) and hosted_name(entry) is not None
    }
    functions_named = any(_names_function(entry) for entry in entries)
    if not hosted:
        return BuiltInUse(tools)
    return BuiltInUse(
        tools,
        frozenset().union(*(RECIPIENTS[name] for name in hosted)),
        must_call=choice.get("mode") == "required" and not functions_named,
        alone=not functions_named,
    )


def _require(entry: Json, offered: dict[BuiltInName, BuiltInTool], param: str) -> BuiltInName:
    """Returns the built-in tool that an entry names. Raises ServingError unless it is offered."""
    name = hosted_name(entry)
    if name is None or name not in offered:
        raise ServingError(
            ErrorKind.INVALID_VALUE, f"'{param}' names no tool of 'tools'.", param=param
        )
    return name


def _in_chat(choice: Any) -> Any:
    """Returns the choice in the words of a chat request."""
    if not isinstance(choice, dict):
        return choice
    if choice["type"] == "function":
        return {"type": "function", "function": {"name": choice.get("name")}}
    tools = choice.get("tools")
    named = [_in_chat(tool) for tool in tools if _names_function(tool)] if tools else None
    return {"type": "allowed_tools", "allowed_tools": {"mode": choice.get("mode"), "tools": named}}


def _names_function(tool: Any) -> bool:
    return isinstance(tool, dict) and tool.get("type") == "function"
