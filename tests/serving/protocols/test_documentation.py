"""docs/api.md says what the API does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import anthropic.types.message_create_params as messages_specification
import openai.types.chat.completion_create_params as specification
import openai.types.completion_create_params as completions_specification
import openai.types.embedding_create_params as embeddings_specification
import openai.types.responses.response_create_params as responses_specification
from anthropic.types import message_count_tokens_params
from openai.types.responses import ResponseIncludable

from serving.errors import ErrorKind
from serving.protocols.chat.schema import ChatRequest
from serving.protocols.completions.schema import CompletionRequest
from serving.protocols.embeddings.schema import EmbeddingsRequest
from serving.protocols.messages.schema import CountTokensRequest, MessagesRequest
from serving.protocols.responses.schema import INCLUDABLE, ResponsesRequest

DOCUMENT = (Path(__file__).parents[3] / "docs" / "api.md").read_text()
CODES = set(re.findall(r"`([a-z_]+)`", DOCUMENT))


def test_every_field_of_the_request_is_documented() -> None:
    table = DOCUMENT.split("## Answers")[0]
    assert set(ChatRequest.model_fields) <= set(re.findall(r"`([a-z_]+)`", table))


def test_every_field_of_the_client_s_specification_is_known() -> None:
    fields = set(specification.CompletionCreateParamsBase.__annotations__) | {"stream"}
    assert fields <= set(ChatRequest.model_fields)


def test_every_field_of_a_completion_is_documented_and_known() -> None:
    table = DOCUMENT.split("## Completions")[1].split("## ")[0]
    assert set(CompletionRequest.model_fields) <= set(re.findall(r"`([a-z_]+)`", table))
    fields = set(completions_specification.CompletionCreateParamsBase.__annotations__)
    assert fields | {"stream"} <= set(CompletionRequest.model_fields)


def test_every_field_of_embeddings_is_documented_and_known() -> None:
    table = DOCUMENT.split("## Embeddings")[1].split("## ")[0]
    assert set(EmbeddingsRequest.model_fields) <= set(re.findall(r"`([a-z_]+)`", table))
    fields = set(embeddings_specification.EmbeddingCreateParams.__annotations__)
    assert fields <= set(EmbeddingsRequest.model_fields)


def test_every_field_of_a_response_is_documented_and_known() -> None:
    table = DOCUMENT.split("## Responses")[1].split("## ")[0]
    assert set(ResponsesRequest.model_fields) <= set(re.findall(r"`([a-z_]+)`", table))
    fields = set(responses_specification.ResponseCreateParamsBase.__annotations__)
    assert fields | {"stream"} <= set(ResponsesRequest.model_fields)
    assert set(get_args(ResponseIncludable)) == INCLUDABLE


def test_every_field_of_a_message_is_documented_and_known() -> None:
    table = DOCUMENT.split("## Messages")[1].split("## ")[0]
    assert set(MessagesRequest.model_fields) <= set(re.findall(r"`([a-z_]+)`", table))
    fields = set(messages_specification.MessageCreateParamsBase.__annotations__)
    assert fields | {"stream"} <= set(MessagesRequest.model_fields)
    counted = set(message_count_tokens_params.MessageCountTokensParams.__annotations__)
    assert counted <= set(CountTokensRequest.model_fields)


def test_every_error_is_documented() -> None:
    told = set(ErrorKind) - {ErrorKind.CLIENT_CLOSED}  # nobody is there to read that one
    assert {kind.value.code for kind in told} <= CODES
