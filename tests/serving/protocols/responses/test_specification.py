"""Every field and every value of the official client's types is honoured, or refused by name.

A new version of the client brings new ones, and these tests then say which.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from openai.types import conversations, responses, shared_params
from openai.types.responses import response_create_params as create
from openai.types.responses.response_compact_params import ResponseCompactParams
from openai.types.responses.response_retrieve_params import ResponseRetrieveParamsBase
from openai.types.responses.responses_client_event import ResponseCreate
from pydantic import BaseModel

from serving.errors import ServingError
from serving.protocols.conversations import schema as conversation
from serving.protocols.edge.body import check
from serving.protocols.responses import schema, tools
from serving.settings import Limits

API = (Path(__file__).parents[4] / "docs" / "api.md").read_text(encoding="utf-8")
DOCUMENT = API.split("## Responses")[1].split("\n## ")[0]
WORDS = {word for code in re.findall("`[^`]+`", API) for word in re.findall("[a-z_]+", code)}

PAIRS: list[tuple[Any, type[BaseModel]]] = [
    (create.ResponseCreateParamsBase, schema.ResponsesRequest),
    (create.PromptCacheOptions, schema.PromptCacheOptions),
    (create.StreamOptions, schema.StreamOptions),
    (shared_params.Reasoning, schema.Reasoning),
    (responses.ResponseTextConfigParam, schema.Text),
    (responses.ResponseFormatTextJSONSchemaConfigParam, schema.TextFormat),
    (responses.FunctionToolParam, tools.FunctionTool),
    (responses.InputTokenCountParams, schema.TokensRequest),
    (ResponseCompactParams, schema.CompactRequest),
    (conversations.ConversationCreateParams, conversation.CreateConversation),
    (conversations.ConversationUpdateParams, conversation.UpdateConversation),
]


def names(model: type[BaseModel]) -> set[str]:
    return {field.alias or name for name, field in model.model_fields.items()}


@pytest.mark.parametrize(("specified", "model"), PAIRS)
def test_every_field_of_the_client_is_known_and_documented(
    specified: Any, model: type[BaseModel]
) -> None:
    fields = set(get_type_hints(specified))
    assert fields <= names(model)
    assert fields <= WORDS


def test_every_field_of_an_event_is_known() -> None:
    assert set(ResponseCreate.model_fields) - names(schema.ResponsesRequest) == {
        *("type", "stream_id", "generate")
    }
    for field in ("stream_id", "generate"):
        assert field in DOCUMENT.split("### WebSocket mode")[1].split("###")[0]


def test_every_parameter_of_a_query_is_documented() -> None:
    for specified in (ResponseRetrieveParamsBase, conversations.ItemListParams):
        assert not {name for name in get_type_hints(specified) if f"`{name}`" not in DOCUMENT}


def literals(hint: Any) -> Iterator[Any]:
    """Yields the values that a field may have by name."""
    if get_origin(hint) is Literal:
        yield from get_args(hint)
    elif get_origin(hint) in (Union, UnionType):
        for part in get_args(hint):
            yield from literals(part)


def values() -> Iterator[tuple[str, Any]]:
    """Yields the path and the value of each field that has its values by name."""
    groups = {
        "": create.ResponseCreateParamsBase,
        "reasoning.": shared_params.Reasoning,
        "text.": responses.ResponseTextConfigParam,
        "prompt_cache_options.": create.PromptCacheOptions,
    }
    for prefix, specified in groups.items():
        for name, hint in get_type_hints(specified).items():
            if name != "model":
                yield from ((prefix + name, value) for value in literals(hint))


VALUES = sorted(set(values()), key=str)


def body(path: str, value: Any) -> dict[str, Any]:
    outer, _, inner = path.rpartition(".")
    return {"model": "m", "input": "Hi", **({outer: {inner: value}} if outer else {inner: value})}


REFUSED = {
    *(("reasoning.context", "all_turns"), ("reasoning.mode", "pro")),
    *(("text.verbosity", "low"), ("text.verbosity", "high")),
}


@pytest.mark.parametrize(("path", "value"), VALUES)
def test_every_value_of_the_client_is_taken_or_refused_by_name(path: str, value: Any) -> None:
    if (path, value) not in REFUSED:
        check(body(path, value), schema.ResponsesRequest, Limits())
        return
    with pytest.raises(ServingError) as refused:
        check(body(path, value), schema.ResponsesRequest, Limits())
    assert refused.value.param == path


def test_values_are_found() -> None:
    assert set(VALUES) >= REFUSED
    assert ("truncation", "auto") in VALUES
    assert ("service_tier", "ultrafast") in VALUES


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("service_tier", "cheap"),
        ("prompt_cache_retention", "forever"),
        ("prompt_cache_options.ttl", "1m"),
        ("prompt_cache_options.prewarm", "soon"),
        ("prompt_cache_options.comparison_response_id", "resp_1"),
        ("reasoning.summary", "short"),
        ("max_tool_calls", 0),
        ("stream_options.include_obfuscation", "no"),
        ("safety_identifier", "x" * 513),
    ],
)
def test_other_values_are_refused_by_name(path: str, value: Any) -> None:
    with pytest.raises(ServingError) as refused:
        check(body(path, value), schema.ResponsesRequest, Limits())
    assert refused.value.param == path


@pytest.mark.parametrize(
    ("field", "value"),
    [("async", True), ("defer_loading", True), ("allowed_callers", ["programmatic"])],
)
def test_what_a_function_cannot_do_here_is_refused_by_name(field: str, value: Any) -> None:
    tool = {"type": "function", "name": "f", "parameters": None, "strict": None, field: value}
    with pytest.raises(ServingError) as refused:
        check({"model": "m", "input": "Hi", "tools": [tool]}, schema.ResponsesRequest, Limits())
    assert (refused.value.param or "").startswith(f"tools[0].{field}")
