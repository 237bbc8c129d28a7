"""The OpenAPI document of the API, made of its operations and its settings.

OpenAPI 3.1.0 (https://spec.openapis.org/oas/v3.1.0), in which the schema of `text/event-stream`
describes each event.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, TypeAdapter

from serving.errors import ErrorKind
from serving.protocols.edge.answers import Error
from serving.protocols.edge.dialect import ANTHROPIC, dialect_of
from serving.protocols.edge.operation import Operation
from serving.protocols.messages.answers import MessagesError
from serving.settings import Limits, Settings

Json = dict[str, Any]

VERSION: Final = "1"

_REF: Final = "#/components/schemas/"
_OF_BODIES: Final = frozenset({408, 413, 415})
_UNSEEN: Final = frozenset({405, 499})
"""Statuses of a wrong method, and of a client that has left."""
_LIMITED: Final = {
    "n": ("maximum", "choices"),
    "best_of": ("maximum", "choices"),
    "logprobs": ("maximum", "top_logprobs"),
    "top_logprobs": ("maximum", "top_logprobs"),
    "messages": ("maxItems", "messages"),
    "tools": ("maxItems", "tools"),
    "logit_bias": ("maxProperties", "logit_bias_entries"),
    "stop": ("maxItems", "stop_strings"),
    "stop_sequences": ("maxItems", "stop_strings"),
}
"""Fields that the settings bound: the keyword that says so, and the name of the limit."""
_ABOUT: Final = {"maximum": "integer", "maxItems": "array", "maxProperties": "object"}


def make_document(
    operations: Iterable[Operation], settings: Settings, names: Sequence[str]
) -> Json:
    """Returns the document as JSON: every operation with its bodies and answers.

    `names` are those of the language model, none while they are not known.
    """
    schemas = _Schemas(settings.limits, names)
    paths: dict[str, Json] = {}
    for operation in operations:
        path = re.sub(r"\{(\w+):\w+\}", r"{\1}", operation.path)
        described = _describe(operation._replace(path=path), schemas)
        paths.setdefault(path, {})[operation.method.lower()] = described
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

    def __init__(self, limits: Limits, names: Sequence[str]) -> None:
        self.all: dict[str, Json] = {}
        self._limits = limits
        self._names = names

    def taken(self, model: type[BaseModel], names: Sequence[str] | None) -> Json:
        """Returns a reference to the schema of a body, in which `model` has one of `names`."""
        if model.__name__ not in self.all:
            schema = model.model_json_schema(ref_template=f"{_REF}{model.__name__}.{{model}}")
            self._add(model.__name__, schema)
            allowed = self._names if names is None else names
            _bound(self.all[model.__name__], self._limits, allowed)
        return {"$ref": _REF + model.__name__}

    def given(self, answer: Any) -> Json:
        """Returns a reference to the schema of an answer, which has no keys but its type's."""
        name = answer.__name__
        if name not in self.all:
            template = f"{_REF}{name}.{{model}}"
            schema = TypeAdapter(answer).json_schema(mode="serialization", ref_template=template)
            for part in (schema, *schema.get("$defs", {}).values()):
                part.setdefault("additionalProperties", False)
            self._add(name, schema)
        return {"$ref": _REF + name}

    def _add(self, name: str, schema: Json) -> None:
        parts = schema.pop("$defs", {})
        for key, part in {name: schema, **{f"{name}.{k}": v for k, v in parts.items()}}.items():
            self.all[key] = _plain(part)


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


def _bound(schema: Json, limits: Limits, names: Sequence[str]) -> None:
    """Writes into a request's schema what the settings allow."""
    properties: Json = schema.get("properties", {})
    if "model" in properties:
        properties["model"] = _named(properties["model"], names)
    for name, (keyword, limit) in _LIMITED.items():
        if name in properties:
            _set_bound(properties[name], keyword, limits, limit)


def _named(schema: Json, names: Sequence[str]) -> Json:
    choice: Json = {"type": "string", "enum": list(names)} if names else {"type": "string"}
    form = {"anyOf": [choice, {"type": "null"}]} if "anyOf" in schema else choice
    return form | {"description": schema["description"]}


def _set_bound(schema: Json, keyword: str, limits: Limits, limit: str) -> None:
    """Sets a keyword on the forms of a field that it is about."""
    for form in schema.get("anyOf", [schema]):
        if form.get("type") == _ABOUT[keyword]:
            form[keyword] = getattr(limits, limit)


def _describe(operation: Operation, schemas: _Schemas) -> Json:
    method, path = operation.method, operation.path
    described: Json = {"operationId": _operation_id(method, path), "summary": operation.summary}
    if parameters := _parameters(path, operation.query):
        described["parameters"] = parameters
    if operation.takes:
        forms = [schemas.taken(form, operation.names) for form in operation.takes]
        body = forms[0] if len(forms) == 1 else {"anyOf": forms}
        described["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": body}},
        }
    described["responses"] = {
        "200": _answer(operation, schemas),
        **_errors(method, path, schemas),
    }
    if operation.unavailable is not None:
        shape = schemas.given(operation.unavailable)
        described["responses"]["503"] = _response("The state is not good.", shape)
    return described


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


def _answer(operation: Operation, schemas: _Schemas) -> Json:
    path = operation.path
    if operation.gives is None:
        content: Json = {"text/plain": {"schema": {"type": "string"}}}
        return {"description": "The page.", "headers": _headers(path), "content": content}
    response = _response("The answer.", schemas.given(operation.gives), path)
    if operation.streams is not None:
        response["content"]["text/event-stream"] = {
            "schema": _event(schemas.given(operation.streams), _error_shape(path, schemas))
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
    return schemas.given(model)


def _errors(method: str, path: str, schemas: _Schemas) -> Json:
    """Returns the responses that are errors, by status: each tells the codes that it may hold."""
    shape = _error_shape(path, schemas)
    codes: dict[int, list[str]] = {}
    for kind in ErrorKind:
        told = f"- `{kind.value.code}`: {kind.value.meaning}"
        codes.setdefault(kind.value.http_status, []).append(told)
    left_out = _UNSEEN if method == "POST" else _UNSEEN | _OF_BODIES
    return {
        str(status): _response("\n".join(told), shape, path)
        for status, told in sorted(codes.items())
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
