"""What each address takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from pydantic import BaseModel

from serving.api.anthropic.schema import CountTokensRequest, MessagesRequest
from serving.api.chat.schema import ChatRequest
from serving.api.completions.schema import CompletionRequest
from serving.api.conversations.schema import (
    CreateConversation,
    CreateItems,
    UpdateConversation,
)
from serving.api.embeddings.schema import EmbeddingsRequest
from serving.api.openapi.answers import (
    ChatCompletion,
    ChatCompletionChunk,
    Health,
    Model,
    ModelList,
    Text,
    TextCompletion,
    TextCompletionChunk,
    Tokens,
)
from serving.api.openapi.anthropic import MessageAnswer, MessageEvent, MessageTokens
from serving.api.openapi.embeddings import EmbeddingList
from serving.api.openapi.responses import (
    CompactedResponse,
    Conversation,
    DeletedConversation,
    DeletedResponse,
    InputTokenCount,
    Item,
    ItemList,
    Response,
    ResponseEvent,
)
from serving.api.responses.query import LIMIT_MAX
from serving.api.responses.schema import (
    INCLUDABLE,
    CompactRequest,
    ResponsesRequest,
    TokensRequest,
)
from serving.api.tokenize import Detokenize, TokenizeChat, TokenizeText

Schema = type[BaseModel]


class Operation(NamedTuple):
    """One method of one address. `takes` are the forms that a body may have, `streams` is what an
    event of the stream holds that comes with `"stream": true`, `query` the parameters by name."""

    summary: str
    gives: Schema | None
    takes: tuple[Schema, ...] = ()
    streams: Schema | None = None
    query: Mapping[str, dict[str, Any]] = MappingProxyType({})
    unavailable: Schema | None = None
    """What a 503 holds, where that is no error."""


_INCLUDE = {"include": {"type": "array", "items": {"enum": sorted(INCLUDABLE)}}}
_PAGE: dict[str, dict[str, Any]] = {
    "limit": {"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": 20},
    "order": {"enum": ["asc", "desc"], "default": "desc"},
    "after": {"type": "string"},
    **_INCLUDE,
}
_RESUMED: dict[str, dict[str, Any]] = {
    "stream": {"type": "boolean", "default": False},
    "starting_after": {"type": "integer", "minimum": 0},
    **_INCLUDE,
}

OPERATIONS: dict[tuple[str, str], Operation] = {
    ("POST", "/v1/chat/completions"): Operation(
        "Answer a conversation", ChatCompletion, (ChatRequest,), ChatCompletionChunk
    ),
    ("POST", "/v1/completions"): Operation(
        "Continue a raw text", TextCompletion, (CompletionRequest,), TextCompletionChunk
    ),
    ("POST", "/v1/responses"): Operation(
        "Create a response", Response, (ResponsesRequest,), ResponseEvent
    ),
    ("POST", "/v1/responses/input_tokens"): Operation(
        "Count the tokens of a response's prompt", InputTokenCount, (TokensRequest,)
    ),
    ("POST", "/v1/responses/compact"): Operation(
        "Make a conversation shorter", CompactedResponse, (CompactRequest,)
    ),
    ("GET", "/v1/responses/{id}"): Operation(
        "Read a stored response, or its stream", Response, streams=ResponseEvent, query=_RESUMED
    ),
    ("DELETE", "/v1/responses/{id}"): Operation("Delete a stored response", DeletedResponse),
    ("GET", "/v1/responses/{id}/input_items"): Operation(
        "List the items of a response's input",
        ItemList,
        query=_PAGE,
    ),
    ("POST", "/v1/responses/{id}/cancel"): Operation("End a response in the background", Response),
    ("POST", "/v1/conversations"): Operation(
        "Make a conversation", Conversation, (CreateConversation,)
    ),
    ("GET", "/v1/conversations/{id}"): Operation("Read a conversation", Conversation),
    ("POST", "/v1/conversations/{id}"): Operation(
        "Give a conversation other metadata", Conversation, (UpdateConversation,)
    ),
    ("DELETE", "/v1/conversations/{id}"): Operation("Delete a conversation", DeletedConversation),
    ("GET", "/v1/conversations/{id}/items"): Operation(
        "List the items of a conversation", ItemList, query=_PAGE
    ),
    ("POST", "/v1/conversations/{id}/items"): Operation(
        "Add items to a conversation", ItemList, (CreateItems,), query=_INCLUDE
    ),
    ("GET", "/v1/conversations/{id}/items/{item}"): Operation(
        "Read an item of a conversation", Item, query=_INCLUDE
    ),
    ("DELETE", "/v1/conversations/{id}/items/{item}"): Operation(
        "Take an item out of a conversation", Conversation
    ),
    ("POST", "/v1/messages"): Operation(
        "Answer a conversation, in Anthropic's protocol",
        MessageAnswer,
        (MessagesRequest,),
        MessageEvent,
    ),
    ("POST", "/v1/messages/count_tokens"): Operation(
        "Count the tokens of a message's prompt", MessageTokens, (CountTokensRequest,)
    ),
    ("POST", "/v1/embeddings"): Operation(
        "Make vectors of texts", EmbeddingList, (EmbeddingsRequest,)
    ),
    ("POST", "/v1/tokenize"): Operation(
        "Encode a text or a conversation", Tokens, (TokenizeText, TokenizeChat)
    ),
    ("POST", "/v1/detokenize"): Operation("Decode token ids", Text, (Detokenize,)),
    ("GET", "/v1/models"): Operation("List the names of the models", ModelList),
    ("GET", "/v1/models/{name}"): Operation("Describe a model", Model),
    ("GET", "/livez"): Operation("Tell whether the process lives", Health, unavailable=Health),
    ("GET", "/readyz"): Operation("Tell whether requests are answered", Health, unavailable=Health),
    ("GET", "/health"): Operation("Tell the same as /readyz", Health, unavailable=Health),
}
