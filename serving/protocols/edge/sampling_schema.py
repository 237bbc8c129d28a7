"""The request fields that choose tokens, equal in every protocol that has them.

Limits come through the validation context. Numbers and strings are not converted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator
from pydantic.functional_validators import AfterValidator
from pydantic_core import PydanticCustomError

from serving.harmony.vocabulary import SIZE
from serving.protocols.edge.fields import Accepted, Body, Loose
from serving.settings import Limits

DENIED_FIELDS = frozenset(
    {
        *("add_generation_prompt", "add_special_tokens", "allowed_token_ids", "bad_words"),
        *("cache_salt", "chat_template", "chat_template_kwargs", "continue_final_message"),
        *("documents", "guided_choice", "guided_decoding_backend", "guided_grammar"),
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
Temperature = Annotated[
    Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None,
    Field(description="Divides the logits. At 0 the likeliest token is always taken."),
]
TopP = Annotated[
    Probability | None,
    Field(
        description="Samples from the likeliest tokens that have this probability together. "
        "At 0 the likeliest token is always taken."
    ),
]
Alternatives = Annotated[
    Annotated[int, Field(ge=0)] | None,
    Field(description="How many other tokens are shown, with their log-probabilities, at each."),
]
ModelName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=512,
        description="One of `served_model_names` in the settings; another name is a 404.",
    ),
]


def limits_of(info: ValidationInfo) -> Limits:
    """Returns the limits that this validation runs under."""
    return info.context if isinstance(info.context, Limits) else Limits()


def _bounded_label(value: str | None, info: ValidationInfo) -> str | None:
    bytes_max = limits_of(info).label_bytes
    if value is not None and len(value.encode("utf-8", "replace")) > bytes_max:
        raise PydanticCustomError("too_long", "may have {n} bytes at most", {"n": bytes_max})
    return value


Label = Annotated[str, AfterValidator(_bounded_label)]


class StreamOptions(Loose):
    """What a stream holds besides the answer."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class SamplingFields(Body):
    """What Chat Completions and Completions have in common."""

    frequency_penalty: Penalty | None = None
    """Lowers a token's logit by this much for each time that the token was written."""
    presence_penalty: Penalty | None = None
    """Lowers a token's logit by this much if the token was written at all."""
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]] | None = (
        None
    )
    """Adds a number from -100 to 100 to a token's logit, by the token's id."""
    n: Annotated[int, Field(ge=1)] | None = None
    """How many choices are written. With a `seed`, choice i has `seed + i`."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    """Signed, 64 bits."""
    stop: str | list[str] | None = None
    """Texts that end the answer, looked for in the visible content. The first to be complete wins
    and is not shown. The setting `limits.stop_characters` says how long one may be."""
    temperature: Temperature = None
    top_p: TopP = None

    stream: bool | None = None
    """Sends the answer as server-sent events, while it is written."""
    stream_options: StreamOptions | None = None
    """`include_usage` adds a last chunk without choices. `include_obfuscation` is accepted;
    nothing is added."""
    user: Accepted[Label] = None

    ignore_eos: bool | None = None
    """Extension: the model cannot end its answer."""
    min_p: Probability | None = None
    """Extension: leaves out tokens below this share of the likeliest one's probability."""
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    """Extension: the model cannot end its answer before so many tokens. More than the answer can
    have is refused."""
    repetition_penalty: Annotated[float, Field(gt=0, le=2, allow_inf_nan=False)] | None = None
    """Extension: above 1, tokens of the prompt and of the answer become less likely."""
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    """Extension: samples from so many of the likeliest tokens. 0 and -1: from all."""

    @field_validator("logit_bias")
    @classmethod
    def _known_tokens(
        cls, value: dict[str, float] | None, info: ValidationInfo
    ) -> dict[str, float] | None:
        entries = limits_of(info).logit_bias_entries
        if value is not None and len(value) > entries:
            raise PydanticCustomError("too_long", "may have {n} entries at most", {"n": entries})
        for key in value or ():
            if not (key.isascii() and key.isdigit() and len(key) < 7 and int(key) < SIZE):
                raise PydanticCustomError(
                    "token", "keys must be token ids from 0 to {n}", {"n": SIZE - 1}
                )
        return value

    @field_validator("n")
    @classmethod
    def _few_choices(cls, value: int | None, info: ValidationInfo) -> int | None:
        return at_most_number(value, limits_of(info).choices)

    @field_validator("stop", mode="plain", json_schema_input_type=str | list[str] | None)
    @classmethod
    def _short_stops(cls, value: Any, info: ValidationInfo) -> list[str]:
        return stop_strings(value, limits_of(info))

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings."""
        return tuple(self.stop or ())


def at_most_number(value: int | None, most: int) -> int | None:
    """Returns `value`. Raises a validation error when it is more than `most`."""
    if value is not None and value > most:
        raise PydanticCustomError("too_large", "may be {n} at most", {"n": most})
    return value


def at_most(value: list[Any], most: int, what: str) -> list[Any]:
    """Returns `value`. Raises a validation error when it holds more than `most` of `what`."""
    if len(value) > most:
        raise PydanticCustomError(
            "too_long", "may have {n} {what} at most", {"n": most, "what": what}
        )
    return value


def texts_or_tokens(value: Any, kind: str, most: int, check: Callable[[Any], None]) -> list[Any]:
    """Returns a text, a list of token ids, or a list of either, as a list of one sort.

    `check` raises for what cannot be one item. Raises a validation error of type `kind` for mixed
    sorts, and for more than `most` of them.
    """
    several = isinstance(value, list) and bool(value) and type(value[0]) is not int
    items: list[Any] = value if several else [value]
    at_most(items, most, f"{kind}s")
    for item in items:
        check(item)
    if any(type(item) is not type(items[0]) for item in items):
        raise PydanticCustomError(kind, "must be all texts or all lists of token ids")
    return items


def stop_strings(value: Any, limits: Limits) -> list[str]:
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
