"""The tools of a Responses request, and the choice among them.

There are functions, and the hosted tools that are built-in ones here: `code_interpreter` is the
model's `python`, and `web_search` its `browser`. Each is run by the executor that the settings
name; a request can ask for one, and never say where it is.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Discriminator, Field, Tag, field_validator
from pydantic_core import PydanticCustomError

from serving.harmony.conversation import BuiltInName
from serving.protocols.edge.fields import UNSUPPORTED, Loose, Name, refuse

WebSearchType = Literal[
    "web_search",
    "web_search_2025_08_26",
    "web_search_preview",
    "web_search_preview_2025_03_11",
]
WEB_SEARCHES: tuple[str, ...] = get_args(WebSearchType)

_LABELS: dict[str, BuiltInName] = {
    "python": "python",
    "code_interpreter": "python",
    "browser": "browser",
    "web_search": "browser",
    "web_search_preview": "browser",
}
"""What an `mcp` tool may be called."""


Direct = Annotated[list[Literal["direct"]], Field(max_length=1)]
"""Who calls a tool: the model, and no program of it."""


class FunctionTool(Loose):
    """A function that the client runs."""

    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    allowed_callers: Direct | None = None
    runs_aside: Annotated[Literal[False] | None, Field(alias="async")] = None
    defer_loading: Literal[False] | None = None
    output_schema: dict[str, Any] | None = None
    """Accepted: the model is shown what a function takes, not what it gives."""

    def described(self) -> dict[str, Any]:
        """Returns what a chat request says of the function, as far as this one says it."""
        known = {"name", "description", "parameters", "strict"}
        return self.model_dump(include=known, exclude_unset=True)


class Container(Loose):
    """Where code runs: in what the executor makes for each response."""

    type: Literal["auto"]
    file_ids: list[str] | None = None
    memory_limit: Annotated[Any, refuse("is the executor's own")] = None
    network_policy: Annotated[Any, refuse("is the executor's own")] = None

    @field_validator("file_ids")
    @classmethod
    def _no_files(cls, value: list[str] | None) -> list[str] | None:
        if value:
            raise PydanticCustomError(UNSUPPORTED, "there are no files here")
        return value


class CodeInterpreterTool(Loose):
    """The built-in `python`."""

    type: Literal["code_interpreter"]
    container: Container | None = None
    allowed_callers: Direct | None = None

    @field_validator("container", mode="before")
    @classmethod
    def _made_for_each(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise PydanticCustomError(
                UNSUPPORTED, "containers are not kept: only {'type': 'auto'} is supported"
            )
        return value

    @property
    def built_in(self) -> BuiltInName:
        """The tool that the model knows."""
        return "python"


class WebSearchTool(Loose):
    """The built-in `browser`. How much a search brings is its executor's to say."""

    type: WebSearchType
    search_context_size: Literal["low", "medium", "high"] | None = None
    search_content_types: list[Literal["text"]] | None = None
    external_web_access: Literal[True] | None = None
    filters: Annotated[Any, refuse("is not supported: the executor has no filters")] = None
    user_location: Annotated[Any, refuse("is not supported: say it in the input")] = None

    @property
    def built_in(self) -> BuiltInName:
        """The tool that the model knows."""
        return "browser"


_ELSEWHERE = refuse("is not supported: the executors are those of this service's settings")


class McpTool(Loose):
    """A built-in tool by the label of its executor. Nothing of a client's is ever connected to."""

    type: Literal["mcp"]
    server_label: str
    require_approval: Literal["never"] | None = None
    server_description: str | None = None
    allowed_tools: Annotated[Any, refuse("is not supported: a tool comes whole")] = None
    authorization: Annotated[Any, _ELSEWHERE] = None
    connector_id: Annotated[Any, _ELSEWHERE] = None
    headers: Annotated[Any, _ELSEWHERE] = None
    server_url: Annotated[Any, _ELSEWHERE] = None
    tunnel_id: Annotated[Any, _ELSEWHERE] = None

    @field_validator("server_label")
    @classmethod
    def _known_label(cls, value: str) -> str:
        if value not in _LABELS:
            raise PydanticCustomError(
                UNSUPPORTED, "names no executor of this service: only 'python' or 'browser' does"
            )
        return value

    @property
    def built_in(self) -> BuiltInName:
        """The tool that the model knows."""
        return _LABELS[self.server_label]


HostedTool = CodeInterpreterTool | WebSearchTool | McpTool

_TAGS = {
    "function": "@function",
    "code_interpreter": "@code_interpreter",
    "mcp": "@mcp",
    **dict.fromkeys(WEB_SEARCHES, "@web_search"),
}


def _tool_tag(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return _TAGS.get(kind) if isinstance(kind, str) else None


Tool = Annotated[
    Annotated[FunctionTool, Tag("@function")]
    | Annotated[CodeInterpreterTool, Tag("@code_interpreter")]
    | Annotated[WebSearchTool, Tag("@web_search")]
    | Annotated[McpTool, Tag("@mcp")],
    Discriminator(
        _tool_tag,
        custom_error_type=UNSUPPORTED,
        custom_error_message=(
            "only tools of type 'function', 'code_interpreter', 'web_search' and 'mcp' are "
            "supported"
        ),
        custom_error_context={"field": "type"},
    ),
]


class ChosenFunction(Loose):
    """The one function that must be called."""

    type: Literal["function"]
    name: Name


class AllowedTools(Loose):
    """A choice among some of the tools that are offered."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[dict[str, Any]], Field(min_length=1)]


class ChosenHosted(Loose):
    """The one built-in tool that must be called."""

    type: Literal["code_interpreter", "mcp", WebSearchType]
    server_label: str | None = None


_TOOL_CHOICES = ("none", "auto", "required")


def _choice_tag(value: Any) -> str | None:
    if isinstance(value, str):
        return "@word" if value in _TOOL_CHOICES else None
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    if kind in ("code_interpreter", "mcp", *WEB_SEARCHES):
        return "@hosted"
    return f"@{kind}" if kind in ("function", "allowed_tools") else None


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("@word")]
    | Annotated[ChosenFunction, Tag("@function")]
    | Annotated[AllowedTools, Tag("@allowed_tools")]
    | Annotated[ChosenHosted, Tag("@hosted")],
    Discriminator(
        _choice_tag,
        custom_error_type=UNSUPPORTED,
        custom_error_message=(
            "must be 'none', 'auto', 'required', or of type 'function', 'allowed_tools', "
            "'code_interpreter', 'web_search' or 'mcp'"
        ),
    ),
]


def hosted_name(choice: dict[str, Any]) -> BuiltInName | None:
    """Returns the built-in tool that an entry of `tool_choice` names, or None."""
    kind = choice.get("type")
    if kind == "code_interpreter":
        return "python"
    if kind in WEB_SEARCHES:
        return "browser"
    label = choice.get("server_label")
    return _LABELS.get(label) if kind == "mcp" and isinstance(label, str) else None
