"""The requests of Anthropic's Messages API: every field of its specification, by name.

A field is honoured, or accepted where it does not change the answer, or refused by name.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from serving.protocols.edge.fields import UNSUPPORTED, Accepted, Body, Loose, refuse
from serving.protocols.edge.sampling_schema import (
    DENIED_FIELDS,
    Label,
    ModelName,
    SamplingFields,
    TopP,
    at_most,
    limits_of,
    stop_strings,
)
from serving.protocols.messages.blocks import Message, TextContent, ToolName

LEAST_THINKING_TOKENS = 1024
Effort = Literal["low", "medium", "high", "xhigh", "max"]


class Tool(Loose):
    """A tool that the client runs."""

    type: str | None = None
    name: ToolName
    description: str | None = None
    input_schema: dict[str, Any]
    strict: bool | None = None
    input_examples: Annotated[
        Any, refuse("is not supported; put the examples into the description")
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _is_custom(cls, value: Any) -> Any:
        kind = value.get("type") if isinstance(value, dict) else None
        if kind not in (None, "custom"):
            raise PydanticCustomError(
                UNSUPPORTED, "only tools of type 'custom' are supported", {"field": "type"}
            )
        return value


class ToolChoice(Loose):
    """Whether a tool must be used. There is one call a turn in any case."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None

    @model_validator(mode="after")
    def _has_name(self) -> ToolChoice:
        if self.type == "tool" and self.name is None:
            raise PydanticCustomError("missing", "Field required", {"field": "name"})
        return self


class Thinking(Loose):
    """Whether the reasoning is shown, and how much of it there may be."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    budget_tokens: Annotated[int, Field(ge=LEAST_THINKING_TOKENS)] | None = None
    display: Literal["summarized", "omitted"] | None = None

    @model_validator(mode="after")
    def _has_budget(self) -> Thinking:
        if self.type == "enabled" and self.budget_tokens is None:
            raise PydanticCustomError("missing", "Field required", {"field": "budget_tokens"})
        return self


class OutputFormat(Loose):
    """A JSON schema that the answer fits."""

    type: Literal["json_schema"]
    definition: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(Loose):
    """How much effort goes into the answer, and its form."""

    effort: Effort | None = None
    format: OutputFormat | None = None


class CountTokensRequest(Body):
    """The body of `POST /v1/messages/count_tokens`: all that makes the prompt."""

    denied_fields = DENIED_FIELDS

    model: ModelName
    messages: Annotated[list[Message], Field(min_length=1)]
    """Roles user, assistant and, anywhere, system. Blocks of type text, tool_use, tool_result,
    thinking and redacted_thinking; images and documents are refused. The last message is the
    user's: a client cannot write the beginning of the answer. A tool_result needs the id of an
    earlier tool_use; with `is_error` its text begins with `Error: `."""
    system: TextContent | None = None
    """Becomes Harmony's developer message."""
    tools: list[Tool] | None = None
    """Tools that the client runs. With `strict` the input fits the schema."""
    tool_choice: ToolChoice | None = None
    """`auto`, `none`, `any` or `tool`. GPT-OSS makes one call a turn."""
    thinking: Thinking | None = None
    """`disabled` is low effort. A `budget_tokens` below 4096 is low, from 16384 on high, between
    them medium; without a budget the effort is the service's own. `enabled` and `adaptive` show the
    reasoning; with `display` `omitted` its block is empty. Send it back while tools are called: the
    model sees it until the next answer."""
    output_config: OutputConfig | None = None
    """`effort` counts before `thinking`; `xhigh` and `max` mean high. `format`: the answer fits
    the JSON schema."""

    cache_control: dict[str, Any] | None = None
    """Accepted; prefixes are cached in any case."""
    context_management: Accepted[dict[str, Any]] = None
    speed: Accepted[Literal["standard", "fast"]] = None
    user_profile_id: Accepted[Label] = None
    workspace_id: Accepted[Label] = None

    mcp_servers: Annotated[Any, refuse("is not supported; offer the tools themselves")] = None
    output_format: Annotated[Any, refuse("is not supported")] = None

    @model_validator(mode="before")
    @classmethod
    def _no_empty_servers(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("mcp_servers") == []:
            return {key: part for key, part in value.items() if key != "mcp_servers"}
        return value

    @field_validator("messages")
    @classmethod
    def _few_messages(cls, value: list[Message], info: ValidationInfo) -> list[Message]:
        return at_most(value, limits_of(info).messages, "messages")

    @field_validator("tools")
    @classmethod
    def _few_tools(cls, value: list[Tool] | None, info: ValidationInfo) -> list[Tool] | None:
        names = [tool.name for tool in value or []]
        if len(set(names)) != len(names):
            raise PydanticCustomError("duplicate", "two tools have the same name")
        return at_most(value or [], limits_of(info).tools, "tools") or None


class Metadata(Loose):
    """About the request, not for the model."""

    user_id: Label | None = None


class MessagesRequest(CountTokensRequest):
    """The body of `POST /v1/messages`."""

    max_tokens: Annotated[int, Field(ge=1)]
    """The most tokens of the answer, thinking included."""
    stop_sequences: list[str] | None = None
    """As `stop` in Chat Completions; `stop_sequence` in the answer names the one that was
    found."""
    stream: bool | None = None
    """The events are message_start, content blocks one after the other, message_delta,
    message_stop; no pings."""
    temperature: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    """Divides the logits. At 0 the likeliest token is always taken."""
    top_k: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Samples from so many of the likeliest tokens. 0: from all."""
    top_p: TopP = None

    diagnostics: Accepted[dict[str, Any]] = None
    metadata: Accepted[Metadata] = None
    service_tier: Accepted[Literal["auto", "standard_only"]] = None

    container: Annotated[Any, refuse("is not supported: there are no server tools")] = None
    inference_geo: Annotated[Any, refuse("is not supported: the model runs where it runs")] = None

    @field_validator("stop_sequences", mode="plain", json_schema_input_type=list[str] | None)
    @classmethod
    def _short_stops(cls, value: Any, info: ValidationInfo) -> list[str]:
        if value is not None and not isinstance(value, list):
            raise PydanticCustomError("stop", "must be a list of strings")
        return stop_strings(value, limits_of(info))

    @model_validator(mode="after")
    def _answer_has_room(self) -> MessagesRequest:
        budget = self.thinking.budget_tokens if self.thinking else None
        if budget is not None and budget >= self.max_tokens:
            raise PydanticCustomError(
                "too_large", "must be less than 'max_tokens'", {"field": "thinking.budget_tokens"}
            )
        return self

    @property
    def sampling(self) -> SamplingFields:
        """The fields that choose tokens, by their names in the other protocols."""
        return SamplingFields(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)
