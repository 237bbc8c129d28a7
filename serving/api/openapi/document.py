"""The OpenAPI document of the API, made of its routes, its request schemas and its settings.

OpenAPI 3.1.0 (https://spec.openapis.org/oas/v3.1.0), in which the schema of `text/event-stream`
describes each event. An address that `OPERATIONS` does not know is there with its methods and its
errors alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from pydantic import BaseModel
from starlette.routing import Route

from serving.api.dialect import ANTHROPIC, dialect_of
from serving.api.embeddings.schema import EmbeddingsRequest
from serving.api.openapi.answers import Error
from serving.api.openapi.anthropic import MessagesError
from serving.api.openapi.operations import OPERATIONS, Operation
from serving.errors import ErrorKind
from serving.settings import Limits, Settings

Json = dict[str, Any]

VERSION: Final = "1"

_TEXT_PAGES: Final = frozenset({"/metrics"})
_REF: Final = "#/components/schemas/"
_OF_BODIES: Final = frozenset({408, 413, 415})
_UNSEEN: Final = frozenset({405, 499})
"""Statuses of a wrong method, and of a client that has left."""
_LIMITED: Final = {
    "n": ("maximum", "choices"),
    "best_of": ("maximum", "choices"),
    "top_logprobs": ("maximum", "top_logprobs"),
    "messages": ("maxItems", "messages"),
    "tools": ("maxItems", "tools"),
    "logit_bias": ("maxProperties", "logit_bias_entries"),
}
"""Fields that the settings bound: the keyword that says so, and the name of the limit."""


def make_document(routes: Iterable[Route], settings: Settings, names: Sequence[str]) -> Json:
    """Returns the document as JSON: every route's methods, with their bodies and answers.

    `names` are those of the language model, none while they are not known.
    """
    schemas = _Schemas(settings, names)
    paths: dict[str, Json] = {}
    for route in routes:
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path)
        for method in sorted((route.methods or set()) - {"HEAD"}):
            known = OPERATIONS.get((method, path))
            paths.setdefault(path, {})[method.lower()] = _operation(method, path, known, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": names[0] if names else "gpt-oss",
            "version": VERSION,
            "description": "gpt-oss behind the OpenAI API.",
        },
        "servers": [{"url": settings.http.root_path or "/"}],
        "paths": paths,
        "components": {"schemas": schemas.all},
    }


class _Schemas:
    """The schemas of the document, each under a name of its own."""

    def __init__(self, settings: Settings, names: Sequence[str]) -> None:
        self.all: dict[str, Json] = {}
        self._settings = settings
        self._model_names = names

    def refer(self, model: type[BaseModel], mode: Literal["validation", "serialization"]) -> Json:
        """Returns a reference to the schema of `model`, which the document then has."""
        name = model.__name__
        if name not in self.all:
            schema = model.model_json_schema(mode=mode, ref_template=f"{_REF}{name}.{{model}}")
            parts = schema.pop("$defs", {})
            for key, part in {name: schema, **{f"{name}.{k}": v for k, v in parts.items()}}.items():
                self.all[key] = _plain(part)
            if mode == "validation":
                _bound(self.all[name], self._settings, self._names(model))
        return {"$ref": _REF + name}

    def _names(self, model: type[BaseModel]) -> Sequence[str]:
        """Returns the names that a request may give for the model."""
        if model is EmbeddingsRequest:
            return self._settings.embeddings.served_model_names
        return self._model_names


def _plain(schema: Any) -> Any:
    """Returns a schema without what says nothing: titles made of names, and defaults of null."""
    if isinstance(schema, list):
        return [_plain(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {
        key: _plain(value)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str)) and not (key == "default" and not value)
    }
    if isinstance(schema.get("properties"), dict):
        kept["properties"] = {key: _plain(value) for key, value in schema["properties"].items()}
    return kept


def _bound(schema: Json, settings: Settings, names: Sequence[str]) -> None:
    """Writes into a request's schema what the settings allow."""
    properties: Json = schema.get("properties", {})
    if "model" in properties:
        properties["model"] = _named(properties["model"], names)
    for name, (keyword, limit) in _LIMITED.items():
        if name in properties:
            _set_bound(properties[name], keyword, settings.limits, limit)


def _named(schema: Json, names: Sequence[str]) -> Json:
    choice: Json = {"type": "string", "enum": list(names)} if names else {"type": "string"}
    return {"anyOf": [choice, {"type": "null"}]} if "anyOf" in schema else choice


def _set_bound(schema: Json, keyword: str, limits: Limits, limit: str) -> None:
    """Sets a keyword on the form of a field that is not null."""
    forms = [form for form in schema.get("anyOf", [schema]) if form.get("type") != "null"]
    forms[0][keyword] = getattr(limits, limit)


def _operation(method: str, path: str, known: Operation | None, schemas: _Schemas) -> Json:
    operation: Json = {"operationId": _operation_id(method, path)}
    if known is not None:
        operation["summary"] = known.summary
    if parameters := _parameters(path, known.query if known else {}):
        operation["parameters"] = parameters
    if known is not None and known.takes:
        forms = [schemas.refer(form, "validation") for form in known.takes]
        body = forms[0] if len(forms) == 1 else {"anyOf": forms}
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": body}},
        }
    operation["responses"] = {
        "200": _answer(path, known, schemas),
        **_errors(method, path, schemas),
    }
    if known is not None and known.unavailable is not None:
        shape = schemas.refer(known.unavailable, "serialization")
        operation["responses"]["503"] = _response("The state is not good.", shape)
    return operation


def _operation_id(method: str, path: str) -> str:
    """Returns a name for generated clients, as `post_v1_chat_completions`."""
    return method.lower() + re.sub(r"[^a-z]+", "_", path).rstrip("_")


def _parameters(path: str, query: Mapping[str, Json]) -> list[Json]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", path)
    ]
    return in_path + [
        {"name": name, "in": "query", "schema": schema} for name, schema in query.items()
    ]


def _answer(path: str, known: Operation | None, schemas: _Schemas) -> Json:
    if path in _TEXT_PAGES:
        content: Json = {"text/plain": {"schema": {"type": "string"}}}
        return {"description": "The page.", "headers": _headers(path), "content": content}
    shape = (
        {} if known is None or known.gives is None else schemas.refer(known.gives, "serialization")
    )
    response = _response("The answer.", shape, path)
    if known is not None and known.streams is not None:
        response["content"]["text/event-stream"] = {
            "schema": _event(
                schemas.refer(known.streams, "serialization"), _error_shape(path, schemas)
            )
        }
    return response


def _event(answer: Json, error: Json) -> Json:
    """Returns the schema of one server-sent event; `[DONE]` is the last of a stream."""
    held = {"contentMediaType": "application/json", "contentSchema": {"anyOf": [answer, error]}}
    return {
        "type": "object",
        "required": ["data"],
        "properties": {
            "event": {"type": "string"},
            "data": {"type": "string", "anyOf": [{"const": "[DONE]"}, held]},
        },
    }


def _error_shape(path: str, schemas: _Schemas) -> Json:
    model = MessagesError if dialect_of(path) is ANTHROPIC else Error
    return schemas.refer(model, "serialization")


def _errors(method: str, path: str, schemas: _Schemas) -> Json:
    """Returns the responses that are errors, by status: each names the codes that it may hold."""
    shape = _error_shape(path, schemas)
    codes: dict[int, list[str]] = {}
    for kind in ErrorKind:
        codes.setdefault(kind.value.http_status, []).append(kind.value.code)
    left_out = _UNSEEN if method == "POST" else _UNSEEN | _OF_BODIES
    return {
        str(status): _response(f"`{'`, `'.join(names)}`", shape, path)
        for status, names in sorted(codes.items())
        if status not in left_out
    }


def _response(description: str, shape: Json, path: str = "") -> Json:
    return {
        "description": description,
        "headers": _headers(path),
        "content": {"application/json": {"schema": shape}},
    }


def _headers(path: str) -> Json:
    names = [name.decode() for name in dialect_of(path).request_id_headers]
    return {name: {"required": True, "schema": {"type": "string"}} for name in names}
