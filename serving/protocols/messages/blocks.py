"""The content blocks of Anthropic's messages as a client may write them.

Tags begin with `@`, so that the path of a validation error can leave them out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from serving.protocols.edge.content import text_or_list
from serving.protocols.edge.fields import UNSUPPORTED, Loose

ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
Id = Annotated[str, Field(min_length=1, max_length=512)]


class TextBlock(Loose):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ThinkingBlock(Loose):
    """Reasoning of the model, as it was answered. The signature is not looked at."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(Loose):
    """Reasoning that nobody can read; there is nothing in it for the model."""

    type: Literal["redacted_thinking"]
    data: str


class ToolUseBlock(Loose):
    """A call that the model made."""

    type: Literal["tool_use"]
    id: Id
    name: ToolName
    input: dict[str, Any]


def _tagger(*kinds: str) -> Callable[[Any], str | None]:
    """Returns what tells the kind of a block, for a union of these."""

    def tag(value: Any) -> str | None:
        kind = value.get("type") if isinstance(value, dict) else None
        return f"@{kind}" if kind in kinds else None

    return tag


_CONTENT_TAG = text_or_list("content blocks")

TextBlocks = list[
    Annotated[
        Annotated[TextBlock, Tag("@text")],
        Discriminator(
            _tagger("text"),
            custom_error_type=UNSUPPORTED,
            custom_error_message="only blocks of type 'text' are supported here",
        ),
    ]
]

TextContent = Annotated[
    Annotated[str, Tag("@string")] | Annotated[TextBlocks, Tag("@list")], _CONTENT_TAG
]
"""Text, or blocks of it."""


class ToolResultBlock(Loose):
    """What a tool returned."""

    type: Literal["tool_result"]
    tool_use_id: Id
    content: TextContent | None = None
    is_error: bool | None = None


UserBlock = Annotated[
    Annotated[TextBlock, Tag("@text")] | Annotated[ToolResultBlock, Tag("@tool_result")],
    Discriminator(
        _tagger("text", "tool_result"),
        custom_error_type=UNSUPPORTED,
        custom_error_message=(
            "only blocks of type 'text' and 'tool_result' are supported in a user message; this "
            "model reads no images or documents"
        ),
    ),
]

AssistantBlock = Annotated[
    Annotated[TextBlock, Tag("@text")]
    | Annotated[ThinkingBlock, Tag("@thinking")]
    | Annotated[RedactedThinkingBlock, Tag("@redacted_thinking")]
    | Annotated[ToolUseBlock, Tag("@tool_use")],
    Discriminator(
        _tagger("text", "thinking", "redacted_thinking", "tool_use"),
        custom_error_type=UNSUPPORTED,
        custom_error_message=(
            "only blocks of type 'text', 'thinking', 'redacted_thinking' and 'tool_use' are "
            "supported in an assistant message"
        ),
    ),
]


class UserMessage(Loose):
    """What the user said, and what tools returned."""

    role: Literal["user"]
    content: Annotated[
        Annotated[str, Tag("@string")] | Annotated[list[UserBlock], Tag("@list")], _CONTENT_TAG
    ]


class AssistantMessage(Loose):
    """What the model said."""

    role: Literal["assistant"]
    content: Annotated[
        Annotated[str, Tag("@string")] | Annotated[list[AssistantBlock], Tag("@list")],
        _CONTENT_TAG,
    ]


class SystemMessage(Loose):
    """Instructions in the middle of a conversation."""

    role: Literal["system"]
    content: TextContent


def _role_tag(value: Any) -> str | None:
    role = value.get("role") if isinstance(value, dict) else None
    return f"@{role}" if role in ("user", "assistant", "system") else None


Message = Annotated[
    Annotated[UserMessage, Tag("@user")]
    | Annotated[AssistantMessage, Tag("@assistant")]
    | Annotated[SystemMessage, Tag("@system")],
    Discriminator(
        _role_tag,
        custom_error_type="role",
        custom_error_message="must be an object with a role of user, assistant or system",
    ),
]
