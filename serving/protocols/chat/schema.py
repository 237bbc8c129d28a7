"""The request of Chat Completions: every field of the OpenAI specification, by name.

A field is honoured, or accepted where it does not change the answer, or refused by name. Numbers
and strings are not converted into one another. Limits come through the validation context.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from serving.protocols.chat.messages import Message
from serving.protocols.edge import sampling_schema
from serving.protocols.edge.fields import (
    UNSUPPORTED,
    Accepted,
    Effort,
    Loose,
    Name,
    ParallelCalls,
    refuse,
)
from serving.protocols.edge.sampling_schema import (
    Alternatives,
    Label,
    ModelName,
    SamplingFields,
    at_most,
    at_most_number,
    limits_of,
)

DENIED_FIELDS = sampling_schema.DENIED_FIELDS | {"best_of", "echo"}
"""See there; and fields of Completions that Chat Completions does not have."""


class FunctionDefinition(Loose):
    """A function that the model may call."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Loose):
    """A tool; only functions are known."""

    type: str
    function: FunctionDefinition | None = None

    @field_validator("type")
    @classmethod
    def _is_function(cls, value: str) -> str:
        if value != "function":
            raise PydanticCustomError(UNSUPPORTED, "only tools of type 'function' are supported")
        return value

    @model_validator(mode="after")
    def _has_function(self) -> Tool:
        if self.function is None:
            raise PydanticCustomError("missing", "Field required", {"field": "function"})
        return self

    @property
    def definition(self) -> FunctionDefinition:
        """The function, which a valid tool has."""
        if self.function is None:
            raise ValueError("a tool without a function was not refused")
        return self.function


class JsonSchema(Loose):
    """The schema that an answer is held to."""

    name: Name
    description: str | None = None
    definition: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class ResponseFormat(Loose):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @model_validator(mode="after")
    def _has_schema(self) -> ResponseFormat:
        if self.type == "json_schema" and self.json_schema is None:
            raise PydanticCustomError("missing", "needs 'json_schema'")
        return self


class NamedFunction(Loose):
    """A function by its name."""

    name: Name


class NamedTool(Loose):
    """The one function that must be called."""

    type: Literal["function"]
    function: NamedFunction

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.name


class AllowedSet(Loose):
    """The functions that may be called, or of which one must be, of those that are offered."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1)]


class AllowedTools(Loose):
    """A choice among some of the functions that are offered."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedSet


_TOOL_CHOICES = ("none", "auto", "required")


def _choice_tag(value: Any) -> str | None:
    if isinstance(value, str):
        return "@word" if value in _TOOL_CHOICES else None
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"@{kind}" if kind in ("function", "allowed_tools") else None


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("@word")]
    | Annotated[NamedTool, Tag("@function")]
    | Annotated[AllowedTools, Tag("@allowed_tools")],
    Discriminator(
        _choice_tag,
        custom_error_type="tool_choice",
        custom_error_message=(
            "must be 'none', 'auto', 'required', or an object of type function or allowed_tools"
        ),
    ),
]


class ChatRequest(SamplingFields):
    """The body of `POST /v1/chat/completions`."""

    denied_fields = DENIED_FIELDS

    model: ModelName
    messages: Annotated[list[Message], Field(min_length=1)]
    """Roles system, developer, user, assistant and tool, with a text or a list of text parts.
    `system` and `developer` are Harmony's developer message. An assistant message may bring back
    `reasoning` or `reasoning_content`: the model sees it until the next final answer. A tool
    message needs the id of an earlier call."""
    tools: list[Tool] | None = None
    """Functions. With `strict: true` the arguments fit the function's schema."""
    tool_choice: ToolChoice | None = None
    """`auto`; `none`: the model is not shown the tools; `required`; one function; or
    `allowed_tools`. A forced call is always a call, with arguments in JSON."""
    parallel_tool_calls: ParallelCalls = None
    reasoning_effort: Effort | None = None
    """The model was trained for `low`, `medium` and `high`. `none` and `minimal` mean low, `xhigh`
    and `max` mean high."""
    response_format: ResponseFormat | None = None
    """`text`, `json_object` or `json_schema`: the final message is JSON, or fits the schema,
    whether `strict` says so or not."""

    logprobs: bool | None = None
    """Shows the log-probabilities of the content's tokens."""
    top_logprobs: Alternatives = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """The most tokens of a choice, reasoning included. Without it, what the context leaves."""
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """The older name of `max_completion_tokens`, which counts before it."""

    metadata: Accepted[dict[Annotated[str, Field(max_length=64)], Label]] = None
    prediction: Accepted[dict[str, Any]] = None
    prompt_cache_key: Accepted[Label] = None
    prompt_cache_options: Accepted[dict[str, Any]] = None
    prompt_cache_retention: Accepted[str] = None
    safety_identifier: Accepted[Label] = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    """Accepted; the answer says `default`."""
    store: bool | None = None
    """Accepted; nothing is stored."""

    audio: Annotated[Any, refuse("audio is not supported by this model")] = None
    function_call: Annotated[Any, refuse("is deprecated; use 'tool_choice'")] = None
    functions: Annotated[Any, refuse("is deprecated; use 'tools'")] = None
    moderation: Annotated[Any, refuse("moderation is not supported")] = None
    web_search_options: Annotated[Any, refuse("web search is not supported")] = None
    modalities: list[str] | None = None
    """`["text"]`; anything else is refused."""
    verbosity: Literal["low", "medium", "high"] | None = None
    """`medium`; another is refused."""

    @field_validator("messages")
    @classmethod
    def _few_messages(cls, value: list[Message], info: ValidationInfo) -> list[Message]:
        return at_most(value, limits_of(info).messages, "messages")

    @field_validator("tools")
    @classmethod
    def _few_tools(cls, value: list[Tool] | None, info: ValidationInfo) -> list[Tool] | None:
        names = [tool.definition.name for tool in value or []]
        if len(set(names)) != len(names):
            raise PydanticCustomError("duplicate", "two functions have the same name")
        return at_most(value or [], limits_of(info).tools, "tools") or None

    @field_validator("top_logprobs")
    @classmethod
    def _few_alternatives(cls, value: int | None, info: ValidationInfo) -> int | None:
        return at_most_number(value, limits_of(info).top_logprobs)

    @field_validator("metadata")
    @classmethod
    def _few_pairs(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        if value is not None and len(value) > 16:
            raise PydanticCustomError("too_long", "may have 16 entries at most")
        return value

    @field_validator("modalities")
    @classmethod
    def _text_only(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and value != ["text"]:
            raise PydanticCustomError(UNSUPPORTED, "only ['text'] is supported")
        return value

    @field_validator("verbosity")
    @classmethod
    def _ordinary_verbosity(cls, value: str | None) -> str | None:
        if value not in (None, "medium"):
            raise PydanticCustomError(
                UNSUPPORTED, "only 'medium' is supported: this model was not trained for another"
            )
        return value

    @property
    def max_new_tokens(self) -> int | None:
        """How many tokens a choice may have, or None where the request does not say."""
        return self.max_completion_tokens or self.max_tokens
