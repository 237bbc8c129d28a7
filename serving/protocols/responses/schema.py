"""The request of the Responses API: every field of the OpenAI specification, by name.

A field takes effect, or is accepted where ignoring it leaves the answer right, or is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    Tag,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic.functional_validators import AfterValidator, BeforeValidator
from pydantic_core import PydanticCustomError

from serving.protocols.edge.content import text_or_list
from serving.protocols.edge.fields import (
    UNSUPPORTED,
    Accepted,
    Body,
    Effort,
    Loose,
    Name,
    ParallelCalls,
    refuse,
)
from serving.protocols.edge.sampling_schema import (
    DENIED_FIELDS,
    Alternatives,
    Label,
    ModelName,
    Temperature,
    TopP,
    at_most,
    at_most_number,
    limits_of,
)
from serving.protocols.responses.items import InputItem, MessageItem
from serving.protocols.responses.tools import FunctionTool, Tool, ToolChoice

ENCRYPTED_REASONING = "reasoning.encrypted_content"
LOGPROBS = "message.output_text.logprobs"
CODE_OUTPUTS = "code_interpreter_call.outputs"

INCLUDABLE = frozenset(
    {
        ENCRYPTED_REASONING,
        LOGPROBS,
        CODE_OUTPUTS,
        # Parts of items that this service never gives out: asking for them changes nothing.
        "computer_call_output.output.image_url",
        "file_search_call.results",
        "message.input_image.image_url",
        "web_search_call.action.sources",
        "web_search_call.results",
    }
)


def _few_pairs(value: dict[str, str]) -> dict[str, str]:
    if len(value) > _PAIRS_MAX:
        raise PydanticCustomError("too_long", "may have {n} entries at most", {"n": _PAIRS_MAX})
    return value


_PAIRS_MAX = 16
Metadata = Annotated[dict[Annotated[str, Field(max_length=64)], Label], AfterValidator(_few_pairs)]
"""A client's own labels of an object: up to 16 texts by name."""


class Reasoning(Loose):
    """How the model reasons, and how that is shown."""

    effort: Effort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    context: Literal["auto", "current_turn", "all_turns"] | None = None
    mode: Literal["standard", "pro"] | None = None

    @field_validator("context")
    @classmethod
    def _this_turn(cls, value: str | None) -> str | None:
        if value == "all_turns":
            raise PydanticCustomError(
                UNSUPPORTED,
                "only 'auto' and 'current_turn' are supported: this model was trained without the "
                "reasoning of earlier turns",
            )
        return value

    @field_validator("mode")
    @classmethod
    def _standard(cls, value: str | None) -> str | None:
        if value == "pro":
            raise PydanticCustomError(UNSUPPORTED, "only 'standard' is supported")
        return value


class TextFormat(Loose):
    """The form of the answer."""

    type: Literal["text", "json_object", "json_schema"]
    name: Name | None = None
    description: str | None = None
    json_schema: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _complete(self) -> TextFormat:
        for field, value in (("name", self.name), ("schema", self.json_schema)):
            if self.type == "json_schema" and value is None:
                raise PydanticCustomError("missing", "Field required", {"field": field})
        return self


class Text(Loose):
    """The form of the answer's text."""

    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None

    @field_validator("verbosity")
    @classmethod
    def _ordinary_verbosity(cls, value: str | None) -> str | None:
        if value not in (None, "medium"):
            raise PydanticCustomError(
                UNSUPPORTED, "only 'medium' is supported: this model was not trained for another"
            )
        return value


class StreamOptions(Loose):
    """What a stream holds besides the answer."""

    include_obfuscation: bool | None = None


class CompactCacheOptions(Loose):
    """How a prompt is cached. Prefixes are, in any case."""

    mode: Literal["implicit", "explicit"] | None = None
    ttl: Literal["30m", "12h"] | None = None


class PromptCacheOptions(CompactCacheOptions):
    """The same for a response. With `prewarm` only the prompt is computed."""

    prewarm: bool | None = None
    comparison_response_id: Annotated[Any, refuse("diagnostics are not supported")] = None


Retention = Literal["in_memory", "24h"]
Tier = Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"]


Input = Annotated[
    Annotated[str, Tag("@string")] | Annotated[list[InputItem], Tag("@list")],
    text_or_list("items", "input_type"),
]


_ID = {"type": "string", "maxLength": 512}
ConversationId = Annotated[
    Annotated[str, Field(max_length=512)] | None,
    BeforeValidator(
        lambda value: value["id"] if isinstance(value, dict) and "id" in value else value
    ),
    WithJsonSchema(
        {
            "anyOf": [
                _ID,
                {"type": "object", "properties": {"id": _ID}, "required": ["id"]},
                {"type": "null"},
            ]
        }
    ),
]
"""The id of a conversation; an object with an `id` means the same."""


class History(Body):
    """What was said."""

    denied_fields = DENIED_FIELDS

    input: Input = Field(default_factory=list)
    """A text, or items: `message` (text parts), `function_call`, `function_call_output`,
    `reasoning`, `compaction`, `code_interpreter_call` and `web_search_call` (taken, and not shown
    to the model again), `item_reference` (to an item that is stored); other types are refused.
    Items of the model that follow one another are one turn: text before a call is its preamble."""
    instructions: str | None = None
    """Become Harmony's developer message, before the input."""
    previous_response_id: Annotated[str, Field(max_length=512)] | None = None
    """The id of a stored response to go on from. The items of its conversation, input and output,
    come before `input`; its `instructions` do not."""
    conversation: ConversationId = None
    """The id of a conversation, or an object with it: its items come before `input`. When an
    answer has ended, its input and output are added to the conversation. Not with
    `previous_response_id`."""

    @property
    def items(self) -> Sequence[InputItem]:
        """The input as items: a text is a message of the user."""
        said = self.input
        return [MessageItem(role="user", content=said)] if isinstance(said, str) else said

    @field_validator("input")
    @classmethod
    def _few_items(cls, value: str | list[Any], info: ValidationInfo) -> str | list[Any]:
        if isinstance(value, list):
            at_most(value, limits_of(info).messages, "items")
        return value

    @model_validator(mode="after")
    def _one_history(self) -> History:
        if self.conversation is not None and self.previous_response_id is not None:
            raise PydanticCustomError(
                "history",
                "cannot be combined with 'previous_response_id': name one of them",
                {"field": "conversation"},
            )
        return self


class PromptFields(History):
    """What the model reads."""

    tools: list[Tool] | None = None
    """Functions: `name`, `description`, `parameters`, `strict`, which is off where it is absent.
    `async`, `defer_loading` and `allowed_callers` other than `["direct"]` are refused;
    `output_schema` is taken and not shown to the model. `code_interpreter`, `web_search` and `mcp`
    are the model's built-in tools, where the service has executors for them, else refused. Other
    hosted tools are refused."""
    tool_choice: ToolChoice | None = None
    """`auto`; `none`: the model is not shown the tools; `required`; one function or built-in tool;
    or `allowed_tools`. A forced call is always a call, with arguments in JSON."""
    parallel_tool_calls: ParallelCalls = None
    reasoning: Reasoning | None = None
    """`effort` is Chat Completions' `reasoning_effort`. With `summary` (or `generate_summary`) the
    summary is the reasoning itself: that of GPT-OSS is open. `context` `all_turns` and `mode` `pro`
    are refused."""
    text: Text | None = None
    """`format` is Chat Completions' `response_format`, with `name`, `description`, `schema` and
    `strict` beside its `type`. `verbosity` is `medium`; another is refused."""
    truncation: Literal["auto", "disabled"] | None = None
    """`disabled`: a prompt that is too long is refused. `auto`: the oldest turns are left out, each
    from a user's message to the next; instructions and the last turn stay."""

    @field_validator("tools")
    @classmethod
    def _few_tools(cls, value: list[Tool] | None, info: ValidationInfo) -> list[Tool] | None:
        names = [tool.name for tool in value or [] if isinstance(tool, FunctionTool)]
        if len(set(names)) != len(names):
            raise PydanticCustomError("duplicate", "two functions have the same name")
        return None if value is None else at_most(value, limits_of(info).tools, "tools")


class CompactRequest(History):
    """The body of `POST /v1/responses/compact`."""

    model: ModelName

    prompt_cache_key: Accepted[Label] = None
    prompt_cache_options: Accepted[CompactCacheOptions] = None
    prompt_cache_retention: Accepted[Retention] = None
    service_tier: Accepted[Tier] = None
    image: Annotated[Any, refuse("images are not supported by this model")] = None


class TokensRequest(PromptFields):
    """The body of `POST /v1/responses/input_tokens`."""

    model: ModelName | None = None
    """One of `served_model_names` in the settings; without it, the model that serves."""
    personality: Annotated[Any, refuse("is not supported; use 'instructions'")] = None


class ResponsesRequest(PromptFields):
    """The body of `POST /v1/responses`."""

    model: ModelName
    include: list[str] | None = None
    """`message.output_text.logprobs`; `reasoning.encrypted_content` (the reasoning in base64, for
    clients that send only this back); `code_interpreter_call.outputs`. Parts of other hosted
    tools' items are accepted."""
    max_output_tokens: Annotated[int, Field(ge=1)] | None = None
    """The most tokens of the answer, reasoning included. Without it, what the context leaves. An
    answer that it cuts off is `incomplete`."""
    max_tool_calls: Annotated[int, Field(ge=1)] | None = None
    """The most calls of built-in tools; the service has a bound of its own."""
    temperature: Temperature = None
    top_p: TopP = None
    top_logprobs: Alternatives = None
    background: bool | None = None
    """The answer comes at once, with the status `queued`. Read the response by its id until it has
    ended. It is stored, so `store` false is refused. With `stream` the answer is the response's
    stream; a client can leave it, and go on with it by the id."""
    store: bool | None = None
    """True without it: the response is kept until it is deleted, its time is over (the setting
    `store.keep_seconds`, from its last use) or space is needed. `store` in the answer says whether
    it is kept."""
    stream: bool | None = None
    """Sends the answer as server-sent events, while it is written."""
    stream_options: StreamOptions | None = None
    """`include_obfuscation` is accepted; nothing is added."""
    prompt_cache_options: PromptCacheOptions | None = None
    """`mode` and `ttl` change nothing: prefixes are cached in any case. With `prewarm` the prompt
    is computed and nothing is written; the response has no output and can be continued.
    `comparison_response_id` is refused."""

    metadata: Metadata | None = None
    """Texts with names, which are given back: up to 16."""
    prompt_cache_key: Accepted[Label] = None
    prompt_cache_retention: Accepted[Retention] = None
    safety_identifier: Accepted[Label] = None
    service_tier: Tier | None = None
    """Accepted; the answer says `default`."""
    user: Accepted[Label] = None

    access_programs: Annotated[Any, refuse("is not supported")] = None
    context_management: Annotated[
        Any, refuse("is not supported; see 'truncation' and /v1/responses/compact")
    ] = None
    image: Annotated[Any, refuse("images are not supported by this model")] = None
    moderation: Annotated[Any, refuse("moderation is not supported")] = None
    prompt: Annotated[Any, refuse("prompt templates are not supported; send their text")] = None

    @model_validator(mode="after")
    def _background_is_stored(self) -> ResponsesRequest:
        if self.background and self.store is False:
            raise PydanticCustomError(
                "store", "a response in the background is stored", {"field": "store"}
            )
        return self

    @field_validator("top_logprobs")
    @classmethod
    def _few_alternatives(cls, value: int | None, info: ValidationInfo) -> int | None:
        return at_most_number(value, limits_of(info).top_logprobs)

    @field_validator("include")
    @classmethod
    def _known_parts(cls, value: list[str] | None) -> list[str] | None:
        if unknown := set(value or ()) - INCLUDABLE:
            name = sorted(unknown)[0][:64]
            raise PydanticCustomError("include", "has no such part: '{name}'", {"name": name})
        return value

    @property
    def prewarms(self) -> bool:
        """Whether only the prompt is computed, and nothing generated."""
        return bool(self.prompt_cache_options and self.prompt_cache_options.prewarm)

    def includes(self, part: str) -> bool:
        """Returns whether the answer is to hold `part`."""
        return part in (self.include or ())
