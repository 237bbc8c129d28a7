"""The description of the API: complete, and true to the settings."""

from __future__ import annotations

import json
from typing import Any

from starlette.routing import Route

from serving.app import create_app
from serving.errors import ErrorKind
from serving.protocols.openapi.document import make_document
from serving.settings import Limits, Settings
from tests.serving.protocols.edge.server import Api


def document(names: tuple[str, ...] = ("m",), **fields: Any) -> Any:
    settings = Settings(**fields)
    return make_document(create_app(settings).state.operations, settings, names)


def form(schema: Any) -> Any:
    """Returns the form of a field that is not null."""
    return next(one for one in schema["anyOf"] if one != {"type": "null"})


async def test_the_service_describes_every_address_that_it_has(api: Api) -> None:
    described = (await api.client.get("/openapi.json")).json()
    served = {
        (method, route.path.replace(":path", ""))
        for route in api.app.routes
        if isinstance(route, Route) and route.path != "/{path:path}"
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert {(m.upper(), path) for path, ms in described["paths"].items() for m in ms} == served


def test_every_reference_leads_somewhere() -> None:
    made = document()
    schemas = made["components"]["schemas"]
    text = json.dumps(made)
    references = {part.split('"')[0] for part in text.split('"#/components/schemas/')[1:]}
    assert references
    assert references <= set(schemas)


def test_a_refused_field_says_so() -> None:
    chat = document()["components"]["schemas"]["ChatRequest"]["properties"]
    assert chat["functions"]["type"] == "null"
    assert "use 'tools'" in chat["functions"]["description"]


def test_limits_and_names_are_those_of_the_settings() -> None:
    made = document(names=("a", "b"), limits=Limits(choices=7, messages=9))
    chat = made["components"]["schemas"]["ChatRequest"]["properties"]
    assert chat["model"]["enum"] == ["a", "b"]
    assert form(chat["n"])["maximum"] == 7
    assert chat["messages"]["maxItems"] == 9


def test_errors_have_the_shape_of_their_protocol_and_name_their_codes() -> None:
    paths = document()["paths"]
    chat = paths["/v1/chat/completions"]["post"]["responses"]
    message = paths["/v1/messages"]["post"]["responses"]
    overloaded = chat["503"]
    assert ErrorKind.OVERLOADED.value.code in overloaded["description"]
    assert overloaded["content"]["application/json"]["schema"]["$ref"].endswith("/Error")
    assert message["503"]["content"]["application/json"]["schema"]["$ref"].endswith(
        "/MessagesError"
    )
    assert set(message["200"]["headers"]) == {"x-request-id", "request-id"}
    assert "415" not in paths["/v1/models"]["get"]["responses"]


def test_an_answer_has_no_keys_but_those_of_its_type() -> None:
    schemas = document()["components"]["schemas"]
    assert schemas["ChatCompletion"]["additionalProperties"] is False
    assert "service_tier" not in schemas["ChatCompletion"]["required"]
    assert schemas["Response"]["additionalProperties"] is False
    assert schemas["Model"]["additionalProperties"] is True
