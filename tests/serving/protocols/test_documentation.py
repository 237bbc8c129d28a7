"""docs/api.md is what the API says of itself, and the API knows what its clients send."""

from __future__ import annotations

from typing import Any, get_args

import anthropic.types.message_create_params as messages_specification
import openai.types.chat.completion_create_params as specification
import openai.types.completion_create_params as completions_specification
import openai.types.embedding_create_params as embeddings_specification
import openai.types.responses.response_create_params as responses_specification
import pytest
from anthropic.types import message_count_tokens_params
from openai.types.responses import ResponseIncludable
from pydantic import BaseModel

from docs import tables
from serving.protocols.chat.schema import ChatRequest
from serving.protocols.completions.schema import CompletionRequest
from serving.protocols.embeddings.schema import EmbeddingsRequest
from serving.protocols.messages.schema import CountTokensRequest, MessagesRequest
from serving.protocols.responses.schema import INCLUDABLE, ResponsesRequest

PAGE = tables.PAGE.read_text()
DOCUMENT = tables.describe()
OPERATIONS = [
    f"{method.upper()} {path}" for path, methods in DOCUMENT["paths"].items() for method in methods
]


def test_the_tables_are_those_of_the_description() -> None:
    assert tables.fill(PAGE, DOCUMENT) == PAGE, "run: python -m docs.tables"


def test_a_table_follows_the_description() -> None:
    page = "<!-- fields: POST /v1/detokenize -->\n| stale |\n<!-- end -->\nprose\n"
    filled = tables.fill(page, DOCUMENT)
    assert "stale" not in filled
    assert "| `tokens` | list, required |" in filled
    assert filled.endswith("<!-- end -->\nprose\n")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_field_has_its_words_and_its_table(operation: str) -> None:
    forms = tables.bodies(operation, DOCUMENT)
    for form in forms:
        untold = [name for name, field in form["properties"].items() if "description" not in field]
        assert not untold
    if forms:
        told = [line for line in PAGE.splitlines() if line.startswith("<!-- fields: ")]
        assert any(operation in line[13:-4].split(", ") for line in told)


@pytest.mark.parametrize(
    ("parameters", "schema"),
    [
        (specification.CompletionCreateParamsBase, ChatRequest),
        (completions_specification.CompletionCreateParamsBase, CompletionRequest),
        (embeddings_specification.EmbeddingCreateParams, EmbeddingsRequest),
        (responses_specification.ResponseCreateParamsBase, ResponsesRequest),
        (messages_specification.MessageCreateParamsBase, MessagesRequest),
        (message_count_tokens_params.MessageCountTokensParams, CountTokensRequest),
    ],
)
def test_every_field_of_the_clients_types_is_known(
    parameters: Any, schema: type[BaseModel]
) -> None:
    assert set(parameters.__annotations__) <= set(schema.model_fields)


@pytest.mark.parametrize(
    "schema", [ChatRequest, CompletionRequest, ResponsesRequest, MessagesRequest]
)
def test_every_answer_can_be_streamed(schema: type[BaseModel]) -> None:
    assert "stream" in schema.model_fields


def test_every_part_that_can_be_included_is_known() -> None:
    assert set(get_args(ResponseIncludable)) == INCLUDABLE
