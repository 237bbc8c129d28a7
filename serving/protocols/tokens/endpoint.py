"""`POST /v1/tokenize` and `POST /v1/detokenize`: text or a conversation <-> token ids."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator
from typing_extensions import TypedDict

from serving.generation.backend import Backend
from serving.generation.prepare import render_prompt
from serving.generation.request import Prompt
from serving.protocols.chat.request import dialogue
from serving.protocols.chat.schema import ChatRequest
from serving.protocols.completions.facts import token_name
from serving.protocols.completions.schema import TokenId, check_ids
from serving.protocols.edge.body import check, decode, decode_object
from serving.protocols.edge.computation import Computation, counting
from serving.protocols.edge.fields import Body
from serving.protocols.edge.generation import Services
from serving.protocols.edge.operation import Operation
from serving.protocols.edge.sampling_schema import ModelName

ROUTE = "tokenize"
REVERSE_ROUTE = "detokenize"


class Tokens(TypedDict):
    """A text or a conversation in token ids."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class Text(TypedDict):
    """The text of token ids, by two names."""

    prompt: str
    text: str


TokenStrings = Annotated[
    bool | None, Field(description="Adds `token_strs`: each token as text, control tokens by name.")
]


class TokenizeText(Body):
    """A text to encode as it is: no token is put before or after it."""

    model: ModelName
    prompt: str
    """The text, if no `messages` are given."""
    return_token_strs: TokenStrings = None


class TokenizeChat(ChatRequest):
    """A chat request, of which the prompt is wanted."""

    return_token_strs: TokenStrings = None


class Detokenize(Body):
    """Token ids to decode."""

    model: ModelName
    tokens: list[TokenId]
    """The ids, control tokens among them."""

    @field_validator("tokens", mode="before")
    @classmethod
    def _in_vocabulary(cls, value: Any) -> Any:
        if isinstance(value, list):
            check_ids(value)
        return value


def token_operations(services: Services) -> list[Operation]:
    """Returns the operations that encode and decode."""
    return [
        Operation(
            "POST",
            "/v1/tokenize",
            _tokenize(services),
            "Encode a text or a conversation",
            gives=Tokens,
            takes=(TokenizeText, TokenizeChat),
        ),
        Operation(
            "POST",
            "/v1/detokenize",
            _detokenize(services),
            "Decode token ids",
            gives=Text,
            takes=(Detokenize,),
        ),
    ]


def _tokenize(services: Services) -> Computation:
    """Returns what encodes: exactly the ids that a completion or chat would have."""
    settings = services.settings

    def compute(body: bytes) -> Tokens:
        value = decode_object(body, settings.limits)
        request: TokenizeChat | TokenizeText
        if "messages" in value:
            request = check(value, TokenizeChat, settings.limits)
            prompt: Prompt = dialogue(request)
        else:
            request = check(value, TokenizeText, settings.limits)
            prompt = request.prompt
        engine = services.fleet.find(request.model)
        tokens = render_prompt(prompt, engine, settings)
        return _answer(tokens, engine, named=bool(request.return_token_strs))

    return counting(ROUTE, services, compute)


def _detokenize(services: Services) -> Computation:
    """Returns what decodes. Control tokens are given by name."""
    settings = services.settings

    def compute(body: bytes) -> Text:
        request = decode(body, Detokenize, settings.limits)
        text = services.fleet.find(request.model).vocabulary.decode(request.tokens)
        # Other servers call it by either name.
        return {"prompt": text, "text": text}

    return counting(REVERSE_ROUTE, services, compute)


def _answer(tokens: list[int], backend: Backend, *, named: bool) -> Tokens:
    vocabulary = backend.vocabulary
    return {
        "count": len(tokens),
        "max_model_len": backend.manifest.limits.max_seq_len,
        "tokens": tokens,
        "token_strs": [token_name(vocabulary, token) for token in tokens] if named else None,
    }
