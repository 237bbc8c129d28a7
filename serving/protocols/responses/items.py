"""The items of a Responses request: what a conversation is made of, as a client may write them.

Items that an earlier response gave out are taken back as they were. Unions carry tags that begin
with `@`, so that the path of a validation error can leave them out.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import Discriminator, Field, Tag, field_validator, model_validator
from pydantic_core import PydanticCustomError

from serving.protocols.edge.content import RefusalPart, text_or_list
from serving.protocols.edge.fields import UNSUPPORTED, Loose, Name

CallId = Annotated[str, Field(min_length=1, max_length=512)]


_TextType = Literal["input_text", "output_text", "text", "summary_text", "reasoning_text"]
_TEXTS = frozenset(get_args(_TextType))


class TextPart(Loose):
    """A piece of text, of the model or of the client."""

    type: _TextType
    text: str


def _part_tag(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(kind, str):
        return None
    return "@text" if kind in _TEXTS else "@refusal" if kind == "refusal" else None


Part = Annotated[
    Annotated[TextPart, Tag("@text")] | Annotated[RefusalPart, Tag("@refusal")],
    Discriminator(
        _part_tag,
        custom_error_type=UNSUPPORTED,
        custom_error_message=(
            "only parts of text are supported; this model reads no images, audio or files"
        ),
    ),
]


Content = Annotated[
    Annotated[str, Tag("@string")] | Annotated[list[Part], Tag("@list")],
    text_or_list("content parts"),
]


class MessageItem(Loose):
    """A message of any role. An item with a role and without a `type` is one too."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Content


class FunctionCallItem(Loose):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: CallId
    name: Name
    arguments: str


class FunctionCallOutputItem(Loose):
    """What a function returned."""

    type: Literal["function_call_output"]
    call_id: CallId
    output: Content


class ReasoningItem(Loose):
    """What the model thought. Its text is in `content`, `encrypted_content` or `summary`."""

    type: Literal["reasoning"]
    summary: Annotated[list[TextPart], Field(default_factory=list)]
    content: list[TextPart] | None = None
    encrypted_content: str | None = None

    @model_validator(mode="after")
    def _readable(self) -> ReasoningItem:
        if self.encrypted_content is not None:
            try:
                unseal(self.encrypted_content)
            except ValueError:
                raise PydanticCustomError(
                    "encrypted_content",
                    "was not made by this service",
                    {"field": "encrypted_content"},
                ) from None
        return self

    @property
    def text(self) -> str:
        """The whole reasoning, as far as the item holds it."""
        if self.content:
            return "".join(part.text for part in self.content)
        if self.encrypted_content is not None:
            return unseal(self.encrypted_content)
        return "\n\n".join(part.text for part in self.summary)


class CompactionItem(Loose):
    """Stands for what was said before: its summary is in `encrypted_content`."""

    type: Literal["compaction"]
    encrypted_content: str

    @field_validator("encrypted_content")
    @classmethod
    def _readable(cls, value: str) -> str:
        try:
            unseal(value)
        except ValueError:
            raise PydanticCustomError("encrypted_content", "was not made by this service") from None
        return value

    @property
    def summary(self) -> str:
        """The summary of what was said."""
        return unseal(self.encrypted_content)


class ItemReference(Loose):
    """Stands for an item of a stored response."""

    type: Literal["item_reference"]
    id: CallId


class CodeInterpreterCallItem(Loose):
    """A call of the built-in python, as an earlier response gave it out."""

    type: Literal["code_interpreter_call"]
    code: str | None = None
    container_id: str = ""
    outputs: list[dict[str, Any]] | None = None
    status: str = "completed"


class WebSearchCallItem(Loose):
    """A call of the built-in browser, as an earlier response gave it out."""

    type: Literal["web_search_call"]
    action: dict[str, Any] = Field(default_factory=lambda: {"type": "search", "query": ""})
    status: str = "completed"


PREFIXES: Final = {
    "code_interpreter_call": "ci",
    "compaction": "cmp",
    "function_call": "fc",
    "function_call_output": "fco",
    "message": "msg",
    "reasoning": "rs",
    "web_search_call": "ws",
}
"""What the ids of items begin with, by type."""

_KINDS = frozenset({*PREFIXES, "item_reference"})


def _item_tag(value: Any) -> str | None:
    if not isinstance(value, dict):
        return None
    kind = value.get("type")
    if kind is None:
        return "@item_reference" if "id" in value and "role" not in value else "@message"
    return f"@{kind}" if isinstance(kind, str) and kind in _KINDS else None


InputItem = Annotated[
    Annotated[MessageItem, Tag("@message")]
    | Annotated[FunctionCallItem, Tag("@function_call")]
    | Annotated[FunctionCallOutputItem, Tag("@function_call_output")]
    | Annotated[ReasoningItem, Tag("@reasoning")]
    | Annotated[CompactionItem, Tag("@compaction")]
    | Annotated[CodeInterpreterCallItem, Tag("@code_interpreter_call")]
    | Annotated[WebSearchCallItem, Tag("@web_search_call")]
    | Annotated[ItemReference, Tag("@item_reference")],
    Discriminator(
        _item_tag,
        custom_error_type=UNSUPPORTED,
        custom_error_message=(
            "must be an item of type message, function_call, function_call_output, reasoning, "
            "compaction, code_interpreter_call, web_search_call or item_reference"
        ),
    ),
]


def seal(text: str) -> str:
    """Returns a text as `encrypted_content`: base64, for clients that keep only this field.

    Nothing is hidden. The reasoning of GPT-OSS is open, and a summary is the client's own.
    """
    return base64.b64encode(text.encode("utf-8", "replace")).decode("ascii")


def unseal(sealed: str) -> str:
    """Returns what `seal` was given. Raises ValueError for anything else."""
    try:
        return base64.b64decode(sealed, validate=True).decode("utf-8")
    except ValueError as error:  # not ASCII, not base64, or not UTF-8
        raise ValueError("no sealed text") from error
