"""The request of Chat Completions: every field of the OpenAI specification, by name.

A field is honoured, or accepted where it does not change the answer, or refused by name. Numbers
and strings are not converted into one another. Limits come through the validation context.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic.functional_validators import AfterValidator
from pydantic_core import PydanticCustomError

from serving.api.messages_schema import UNSUPPORTED, Loose, Message, Name, refuse
from serving.harmony.vocabulary import SIZE
from serving.settings import Limits

DENIED_FIELDS = frozenset(
    {
        *("add_generation_prompt", "add_special_tokens", "allowed_token_ids", "bad_words"),
        *(
            "best_of",
            "cache_salt",
            "chat_template",
            "chat_template_kwargs",
            "continue_final_message",
        ),
        *("documents", "echo", "guided_choice", "guided_decoding_backend", "guided_grammar"),
        *("guided_json", "guided_regex", "guided_whitespace_pattern", "include_stop_str_in_output"),
        *("kv_transfer_params", "length_penalty", "logits_processors", "mm_processor_kwargs"),
        *("priority", "prompt_embeds", "prompt_logprobs", "skip_special_tokens"),
        *("stop_token_ids", "structured_outputs", "truncate_prompt_tokens", "use_beam_search"),
    }
)
"""Fields of other servers that change the answer or reach into the engine; ignoring them would
mislead. Any other unknown field is ignored and counted."""

Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


def _limits(info: ValidationInfo) -> Limits:
    """Returns the limits that this validation runs under."""
    return info.context if isinstance(info.context, Limits) else Limits()


def _bounded_label(value: str | None, info: ValidationInfo) -> str | None:
    bytes_max = _limits(info).label_bytes
    if value is not None and len(value.encode("utf-8", "replace")) > bytes_max:
        raise PydanticCustomError("too_long", "may have {n} bytes at most", {"n": bytes_max})
    return value


Label = Annotated[str, AfterValidator(_bounded_label)]


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


class StreamOptions(Loose):
    """What a stream holds besides the answer."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class ResponseFormat(Loose):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: dict[str, Any] | None = None


class ChatRequest(Loose):
    """The body of `POST /v1/chat/completions`."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow")

    # What the model reads.
    model: Annotated[str, Field(min_length=1, max_length=512)]
    messages: Annotated[list[Message], Field(min_length=1)]
    tools: list[Tool] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: Effort | None = None
    response_format: ResponseFormat | None = None

    # How it answers.
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]] | None = (
        None
    )
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | list[str] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Probability | None = None

    # How it is sent.
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    # Accepted: they do not change the answer. Nothing is stored.
    metadata: dict[Annotated[str, Field(max_length=64)], Label] | None = None
    prediction: dict[str, Any] | None = None
    prompt_cache_key: Label | None = None
    prompt_cache_options: dict[str, Any] | None = None
    prompt_cache_retention: str | None = None
    safety_identifier: Label | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    store: bool | None = None
    user: Label | None = None

    # Refused by name.
    audio: Annotated[Any, refuse("audio is not supported by this model")] = None
    function_call: Annotated[Any, refuse("is deprecated; use 'tool_choice'")] = None
    functions: Annotated[Any, refuse("is deprecated; use 'tools'")] = None
    moderation: Annotated[Any, refuse("moderation is not supported")] = None
    web_search_options: Annotated[Any, refuse("web search is not supported")] = None
    modalities: list[str] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None

    # Extensions that other servers have too.
    ignore_eos: bool | None = None
    min_p: Probability | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _no_denied_field(cls, value: Any) -> Any:
        denied = sorted(DENIED_FIELDS.intersection(value)) if isinstance(value, dict) else []
        for name in denied:
            if value[name] not in (None, False, [], {}):
                raise PydanticCustomError("denied_field", "is not supported", {"field": name})
        return value

    @field_validator("messages")
    @classmethod
    def _few_messages(cls, value: list[Message], info: ValidationInfo) -> list[Message]:
        return _at_most(value, _limits(info).messages, "messages")

    @field_validator("tools")
    @classmethod
    def _few_tools(cls, value: list[Tool] | None, info: ValidationInfo) -> list[Tool] | None:
        names = [tool.definition.name for tool in value or []]
        if len(set(names)) != len(names):
            raise PydanticCustomError("duplicate", "two functions have the same name")
        return _at_most(value or [], _limits(info).tools, "tools") or None

    @field_validator("tool_choice")
    @classmethod
    def _known_tool_choice(cls, value: Any) -> Any:
        named = isinstance(value, dict) and value.get("type") in ("function", "allowed_tools")
        if value in (None, "none", "auto"):
            return value
        if value == "required" or named:
            raise PydanticCustomError(
                UNSUPPORTED,
                "only 'auto' and 'none' are supported: to force a call needs constrained decoding, "
                "which this engine does not have",
            )
        raise PydanticCustomError("tool_choice", "must be 'none' or 'auto'")

    @field_validator("response_format")
    @classmethod
    def _known_format(cls, value: ResponseFormat | None) -> ResponseFormat | None:
        if value is not None and value.type != "text":
            raise PydanticCustomError(
                UNSUPPORTED,
                "only the type 'text' is supported: JSON modes need constrained decoding, which "
                "this engine does not have",
            )
        return value

    @field_validator("logit_bias")
    @classmethod
    def _known_tokens(
        cls, value: dict[str, float] | None, info: ValidationInfo
    ) -> dict[str, float] | None:
        entries = _limits(info).logit_bias_entries
        if value is not None and len(value) > entries:
            raise PydanticCustomError("too_long", "may have {n} entries at most", {"n": entries})
        for key in value or ():
            if not (key.isascii() and key.isdigit() and len(key) < 7 and int(key) < SIZE):
                raise PydanticCustomError(
                    "token", "keys must be token ids from 0 to {n}", {"n": SIZE - 1}
                )
        return value

    @field_validator("top_logprobs")
    @classmethod
    def _few_alternatives(cls, value: int | None, info: ValidationInfo) -> int | None:
        most = _limits(info).top_logprobs
        if value is not None and value > most:
            raise PydanticCustomError("too_large", "may be {n} at most", {"n": most})
        return value

    @field_validator("n")
    @classmethod
    def _few_choices(cls, value: int | None, info: ValidationInfo) -> int | None:
        most = _limits(info).choices
        if value is not None and value > most:
            raise PydanticCustomError("too_large", "may be {n} at most", {"n": most})
        return value

    @field_validator("stop", mode="plain")
    @classmethod
    def _short_stops(cls, value: Any, info: ValidationInfo) -> list[str]:
        return _stops(value, _limits(info))

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

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return tuple(self.stop or ())


def _at_most(value: list[Any], most: int, what: str) -> list[Any]:
    if len(value) > most:
        raise PydanticCustomError(
            "too_long", "may have {n} {what} at most", {"n": most, "what": what}
        )
    return value


def _stops(value: Any, limits: Limits) -> list[str]:
    """Returns the stop strings of a string, a list of strings, or null."""
    stops = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise PydanticCustomError("stop", "must be a string or a list of strings")
    if len(stops) > limits.stop_strings:
        raise PydanticCustomError(
            "too_long", "may have {n} strings at most", {"n": limits.stop_strings}
        )
    if not all(0 < len(stop) <= limits.stop_characters for stop in stops):
        raise PydanticCustomError(
            "stop", "strings must have 1 to {n} characters", {"n": limits.stop_characters}
        )
    return stops
