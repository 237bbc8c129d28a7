"""Two callers of one service: neither reads, lists, continues, cancels or deletes the other's."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Scope

from serving.control.callers import Caller
from serving.harmony.vocabulary import Vocabulary
from tests.conftest import ReplayEngine
from tests.serving.protocols.edge.server import MODEL
from tests.serving.protocols.responses.service import make_script, replaying


def by_header(scope: Scope) -> Caller:
    """Takes a header's word for whose a request is."""
    return Caller(tenant=dict(scope["headers"])[b"x-tenant"].decode())


class Tenant:
    """What one tenant asks."""

    def __init__(self, url: str, name: str) -> None:
        headers = {"x-tenant": name}
        self.http = httpx.AsyncClient(base_url=url, headers=headers, timeout=30)

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Returns the status and the body of an answer."""
        answer = await self.http.request(method, path, json=body)
        return answer.status_code, answer.json()

    async def respond(self, **fields: Any) -> tuple[int, Any]:
        """Asks for a response."""
        return await self.ask("POST", "/responses", {"model": MODEL, "input": "Hi", **fields})


@pytest.fixture
async def tenants(
    replay_engine: ReplayEngine,
    vocabulary: Vocabulary,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncGenerator[tuple[Tenant, Tenant]]:
    """Two tenants of one service."""
    monkeypatch.setattr(Vocabulary, "load", lambda path: vocabulary)
    engine = replay_engine(make_script(vocabulary))
    store = tmp_path / "responses.sqlite3"
    async with replaying(engine, store, identify=by_header) as (_, url):
        one, other = Tenant(url, "one"), Tenant(url, "other")
        async with one.http, other.http:
            yield one, other


async def test_a_response_is_its_caller_s_alone(tenants: tuple[Tenant, Tenant]) -> None:
    one, other = tenants
    _, made = await one.respond()
    path = f"/responses/{made['id']}"
    for method, address in (
        ("GET", path),
        ("GET", f"{path}/input_items"),
        ("POST", f"{path}/cancel"),
        ("DELETE", path),
    ):
        assert (await other.ask(method, address))[0] == 404, (method, address)
    assert (await other.respond(previous_response_id=made["id"]))[0] == 400
    reference = [{"type": "item_reference", "id": made["output"][-1]["id"]}]
    assert (await other.respond(input=reference))[0] == 404
    assert await one.ask("GET", path) == (200, made)
    assert (await one.respond(previous_response_id=made["id"]))[0] == 200
    assert (await one.respond(input=[*reference, {"role": "user", "content": "Go on"}]))[0] == 200
    assert (await one.ask("DELETE", path))[0] == 200


async def test_a_response_in_the_background_is_its_caller_s_alone(
    tenants: tuple[Tenant, Tenant],
) -> None:
    one, other = tenants
    _, begun = await one.respond(background=True, input="An endless story")
    path = f"/responses/{begun['id']}"
    assert (await other.ask("GET", path))[0] == 404
    assert (await other.ask("POST", f"{path}/cancel"))[0] == 404
    assert (await other.ask("DELETE", path))[0] == 404
    assert (await one.ask("POST", f"{path}/cancel"))[1]["status"] == "cancelled"


async def test_a_conversation_is_its_caller_s_alone(tenants: tuple[Tenant, Tenant]) -> None:
    one, other = tenants
    items = [{"role": "user", "content": "Hello"}]
    _, made = await one.ask("POST", "/conversations", {"items": items})
    path = f"/conversations/{made['id']}"
    _, listed = await one.ask("GET", f"{path}/items")
    item = f"{path}/items/{listed['data'][0]['id']}"
    for method, address, body in (
        ("GET", path, None),
        ("POST", path, {"metadata": {"a": "b"}}),
        ("GET", f"{path}/items", None),
        ("POST", f"{path}/items", {"items": items}),
        ("GET", item, None),
        ("DELETE", item, None),
        ("DELETE", path, None),
    ):
        assert (await other.ask(method, address, body))[0] == 404, (method, address)
    assert (await other.respond(conversation=made["id"]))[0] == 404
    assert await one.ask("GET", f"{path}/items") == (200, listed)
    assert (await one.respond(conversation=made["id"]))[0] == 200


async def test_cached_prefixes_are_not_shared(tenants: tuple[Tenant, Tenant]) -> None:
    one, other = tenants
    prompt = "The rules of the house. " * 40

    async def cached(tenant: Tenant) -> int:
        _, made = await tenant.respond(input=prompt, store=False)
        tokens: int = made["usage"]["input_tokens_details"]["cached_tokens"]
        return tokens

    assert await cached(one) == 0
    assert await cached(one) > 0
    assert await cached(other) == 0
