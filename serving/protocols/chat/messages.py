"""The `messages` of a chat request as a client may write them.

Unions carry tags that begin with `@`, so that the path of a validation error can leave them out.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag
from pydantic.json_schema import SkipJsonSchema

from serving.protocols.edge.content import RefusalPart, text_or_list
from serving.protocols.edge.fields import UNSUPPORTED, Loose, Name, refuse


class TextPart(Loose):
    """A piece of text."""

    type: Literal["text"]
    text: str


def _part_tag(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else None
    return f"@{kind}" if kind in ("text", "refusal") else None


_ONLY_TEXT = "only parts of type 'text' are supported; this model reads no images, audio or files"

Parts = Annotated[
    list[
        Annotated[
            Annotated[TextPart, Tag("@text")] | Annotated[RefusalPart, Tag("@refusal")],
            Discriminator(
                _part_tag, custom_error_type=UNSUPPORTED, custom_error_message=_ONLY_TEXT
            ),
        ]
    ],
    Field(min_length=1),
]


Content = Annotated[
    Annotated[str, Tag("@string")] | Annotated[Parts, Tag("@list")],
    text_or_list("content parts"),
]


class InstructionMessage(Loose):
    """What the developer of the application asks: roles system and developer."""

    role: Literal["system", "developer"]
    content: Content
    name: str | None = None


class UserMessage(Loose):
    """What the user said."""

    role: Literal["user"]
    content: Content
    name: str | None = None


class CalledFunction(Loose):
    """Name and arguments of a past call; the arguments are JSON text."""

    name: Name
    arguments: str


class PastToolCall(Loose):
    """A call that the model made."""

    id: Annotated[str, Field(min_length=1, max_length=512)]
    type: Literal["function"]
    function: CalledFunction


class AssistantMessage(Loose):
    """What the model said. `reasoning` and `reasoning_content` are two names of one thing."""

    role: Literal["assistant"]
    content: Content | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[PastToolCall] | None = None
    name: str | None = None
    audio: Annotated[Any, refuse("audio is not supported")] = None
    function_call: Annotated[Any, refuse("is deprecated; use 'tool_calls'")] = None


class ToolMessage(Loose):
    """What a function returned."""

    role: Literal["tool"]
    content: Content
    tool_call_id: str


class FunctionMessage(Loose):
    """The deprecated role, known only to be refused by name."""

    role: Annotated[Any, refuse("'function' is deprecated; use the role 'tool'")]


def _role_tag(value: Any) -> str | None:
    role = value.get("role") if isinstance(value, dict) else None
    if role in ("system", "developer"):
        return "@instruction"
    return f"@{role}" if role in ("user", "assistant", "tool", "function") else None


Message = Annotated[
    Annotated[InstructionMessage, Tag("@instruction")]
    | Annotated[UserMessage, Tag("@user")]
    | Annotated[AssistantMessage, Tag("@assistant")]
    | Annotated[ToolMessage, Tag("@tool")]
    | Annotated[SkipJsonSchema[FunctionMessage], Tag("@function")],
    Discriminator(
        _role_tag,
        custom_error_type="role",
        custom_error_message=(
            "must be an object with a role of system, developer, user, assistant or tool"
        ),
    ),
]
