"""Built-in tools in responses: the official client, a replay engine in its own process, and an
executor on a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseStreamEvent
from starlette.applications import Starlette

from serving.app import create_app
from serving.harmony.vocabulary import Vocabulary
from serving.runtime.script import Delay, Die, Scenario, Script, Tokens
from serving.settings import Settings
from tests.conftest import ReplayEngine
from tests.serving.api.responses.service import launch, strict_client
from tests.serving.api.server import MODEL, connected, listening, until, until_ready
from tests.serving.harmony.oracle import tokenize
from tests.serving.tools.server import ToolServer

PYTHON: Any = {"type": "code_interpreter", "container": {"type": "auto"}}
BROWSER: Any = {"type": "web_search"}
FUNCTION: Any = {"type": "function", "name": "f", "parameters": None, "strict": False}
OUTPUTS: Any = ["code_interpreter_call.outputs"]

THOUGHT = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>Done.<|return|>"


def run(code: str) -> str:
    return f"{THOUGHT}<|channel|>analysis to=python code<|message|>{code}<|call|>"


def browse(name: str, arguments: str) -> str:
    return f" to=browser.{name}<|channel|>analysis code<|message|>{arguments}<|call|>"


def make_script(vocabulary: Vocabulary) -> Script:
    """Returns what the engine plays. The first whose words are in the prompt is played, so that a
    later round, whose prompt holds the executor's output too, comes before the one it follows."""

    def scenario(words: str, markup: str, *more: Any) -> Scenario:
        ids = tuple(tokenize(markup, vocabulary))
        return Scenario(match=tuple(vocabulary.encode(words)), steps=(Tokens(ids=ids), *more))

    function = " to=functions.f<|channel|>commentary <|constrain|>json<|message|>{}<|call|>"
    return Script(
        pace_seconds=0.001,
        scenarios=(
            scenario("murder", "<|channel|>analysis<|message|>Hm", Delay(seconds=0.1), Die()),
            scenario("sunny", FINAL),
            scenario("ran: run me", FINAL),
            scenario("ran: fail here", FINAL),
            scenario(" did not answer within", FINAL),
            scenario(" is not one of the protocol", FINAL),
            scenario("ran: endless", run("endless")),
            scenario("No more tool calls", run("more")),
            scenario("ran: then call", function),
            scenario("ran: then murder", run("murder")),
            scenario('[0] find {"pattern', FINAL),
            scenario('[0] open {"id', browse("find", '{"pattern": "x"}')),
            scenario("[0] search", browse("open", '{"id": "http://a/"}')),
            scenario(" A page (", "<|channel|>final<|message|>So【7†L0】, but【3†L1】.<|return|>"),
            scenario("cite please", browse("open", '{"id": "https://a/b"}')),
            scenario("browse please", browse("search", '{"query": "cats"}')),
            scenario("find nothing", browse("search", "cats")),
            scenario(" is not a JSON object", FINAL),
            *(
                scenario(f"please {word}", run(word))
                for word in (
                    *("run me", "fail here", "wait", "garbage no json", "endless", "then call"),
                    "then murder",
                )
            ),
            scenario("hello", FINAL),
        ),
    )


@asynccontextmanager
async def running(
    directory: Path, store: Path, tools: dict[str, Any]
) -> AsyncGenerator[tuple[Starlette, openai.AsyncOpenAI]]:
    """Yields a ready app with these tools, and the official client of it."""
    values = {"log_level": "error", "store": {"path": str(store)}, "tools": tools}
    app = create_app(Settings.model_validate(values), launch=launch)
    app.state.engine_directory = directory
    async with listening(app) as port:
        await until_ready(app.state.service)
        async with strict_client(f"http://127.0.0.1:{port}/v1") as client:
            yield app, client


@pytest.fixture
async def executor() -> AsyncGenerator[ToolServer]:
    async with ToolServer().running() as server:
        yield server


@pytest.fixture
async def directory(
    replay_engine: ReplayEngine, vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.setattr(Vocabulary, "load", lambda path: vocabulary)
    return replay_engine(make_script(vocabulary))


@pytest.fixture
async def client(
    directory: Path, executor: ToolServer, tmp_path: Path
) -> AsyncGenerator[openai.AsyncOpenAI]:
    where = {"url": executor.url}
    tools = {"python": where, "browser": where, "max_calls": 3}
    async with running(directory, tmp_path / "store", tools) as (_, client):
        yield client


async def streamed(client: openai.AsyncOpenAI, **fields: Any) -> list[ResponseStreamEvent]:
    stream = await client.responses.create(model=MODEL, stream=True, **fields)
    return [event async for event in stream]


def kinds(response: Response) -> list[str]:
    return [item.type for item in response.output]


def comparable(response: Response) -> Any:
    """Returns what two answers to one request have in common."""
    changing = ("id", "call_id", "created_at", "completed_at", "cached_tokens", "container_id")

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: bare(item) for key, item in value.items() if key not in changing}
        return [bare(item) for item in value] if isinstance(value, list) else value

    return bare(response.model_dump())


async def test_code_is_run_and_the_answer_goes_on(
    client: openai.AsyncOpenAI, executor: ToolServer
) -> None:
    response = await client.responses.create(
        model=MODEL, input="please run me", tools=[PYTHON], include=OUTPUTS
    )
    assert response.status == "completed"
    assert response.output_text == "Done."
    assert kinds(response) == ["reasoning", "code_interpreter_call", "message"]
    call = response.output[1]
    assert call.type == "code_interpreter_call"
    assert (call.code, call.status) == ("run me", "completed")
    assert call.outputs is not None
    assert [output.model_dump() for output in call.outputs] == [
        {"type": "logs", "logs": "ran: run me"}
    ]
    assert call.container_id.startswith("cntr_")
    usage = response.usage
    assert usage is not None
    # Both rounds count; the second reads the whole first from the cache.
    assert usage.input_tokens_details.cached_tokens > 0
    assert usage.output_tokens > 15
    assert executor.calls == [("session-1", "python", {"code": "run me"})]
    await until(lambda: not executor.sessions)


async def test_without_being_asked_for_outputs_are_not_given(client: openai.AsyncOpenAI) -> None:
    response = await client.responses.create(model=MODEL, input="please run me", tools=[PYTHON])
    call = response.output[1]
    assert call.type == "code_interpreter_call"
    assert call.outputs is None


async def test_the_events_of_a_call_of_code_are_in_order(client: openai.AsyncOpenAI) -> None:
    events = await streamed(client, input="please run me", tools=[PYTHON], include=OUTPUTS)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    call = [event for event in events if getattr(event, "output_index", None) == 1]
    types = [event.type for event in call]
    deltas = [e.delta for e in call if e.type == "response.code_interpreter_call_code.delta"]
    assert "".join(deltas) == "run me"
    assert [name for name in types if not name.endswith(".delta")] == [
        "response.output_item.added",
        "response.code_interpreter_call.in_progress",
        "response.code_interpreter_call_code.done",
        "response.code_interpreter_call.interpreting",
        "response.code_interpreter_call.completed",
        "response.output_item.done",
    ]
    last = events[-1]
    assert last.type == "response.completed"


async def test_the_events_of_calls_of_the_browser_are_in_order(
    client: openai.AsyncOpenAI, executor: ToolServer
) -> None:
    events = await streamed(client, input="browse please", tools=[BROWSER])
    assert [event.type for event in events if getattr(event, "output_index", None) == 0] == [
        "response.output_item.added",
        "response.web_search_call.in_progress",
        "response.web_search_call.searching",
        "response.web_search_call.completed",
        "response.output_item.done",
    ]
    last = events[-1]
    assert last.type == "response.completed"
    actions = [
        item.action.model_dump(exclude_none=True)
        for item in last.response.output
        if item.type == "web_search_call"
    ]
    assert actions == [
        {"type": "search", "query": "cats", "queries": ["cats"]},
        {"type": "open_page", "url": "http://a/"},
        {"type": "find_in_page", "pattern": "x", "url": ""},
    ]
    assert [(tool, arguments) for _, tool, arguments in executor.calls] == [
        ("search", {"query": "cats"}),
        ("open", {"id": "http://a/"}),
        ("find", {"pattern": "x"}),
    ]


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        ("please run me", {"include": OUTPUTS}),
        ("please fail here", {}),
        ("please endless", {"max_tool_calls": 1}),
        ("please then call", {"tools": [PYTHON, FUNCTION]}),
        ("please run me", {"max_output_tokens": 10}),
        ("please run me", {"max_output_tokens": 16}),
        ("browse please", {"tools": [BROWSER]}),
        ("browse please", {"tools": [BROWSER], "max_output_tokens": 8}),
        ("find nothing", {"tools": [BROWSER]}),
        ("cite please", {"tools": [BROWSER]}),
    ],
)
async def test_the_stream_is_the_answer_in_pieces(
    client: openai.AsyncOpenAI, words: str, fields: dict[str, Any]
) -> None:
    fields = {"input": words, "tools": [PYTHON], **fields}
    whole = await client.responses.create(model=MODEL, **fields)
    events = await streamed(client, **fields)
    last = events[-1]
    assert last.type in ("response.completed", "response.incomplete")
    assert comparable(last.response) == comparable(whole)
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert [item.model_dump() for item in done] == [
        item.model_dump() for item in last.response.output
    ]


@pytest.mark.parametrize("words", ["please fail here", "please garbage no json"])
async def test_a_call_that_fails_is_told_to_the_model_and_shown(
    client: openai.AsyncOpenAI, words: str
) -> None:
    response = await client.responses.create(model=MODEL, input=words, tools=[PYTHON])
    assert (response.status, response.output_text) == ("completed", "Done.")
    assert response.output[1].type == "code_interpreter_call"
    assert response.output[1].status == "failed"


async def test_a_call_that_takes_too_long_is_told_to_the_model(
    directory: Path, executor: ToolServer, tmp_path: Path
) -> None:
    tools = {"python": {"url": executor.url}, "call_seconds": 0.05}
    async with running(directory, tmp_path / "store", tools) as (_, client):
        response = await client.responses.create(model=MODEL, input="please wait", tools=[PYTHON])
        assert (response.status, response.output_text) == ("completed", "Done.")
        assert response.output[1].to_dict()["status"] == "failed"
        async with asyncio.timeout(10):
            await executor.told_to_stop.wait()


async def test_a_search_without_arguments_is_not_made(
    client: openai.AsyncOpenAI, executor: ToolServer
) -> None:
    response = await client.responses.create(model=MODEL, input="find nothing", tools=[BROWSER])
    call = response.output[0]
    assert call.type == "web_search_call"
    assert call.status == "failed"
    assert not executor.calls


async def test_what_the_answer_cites_is_annotated(client: openai.AsyncOpenAI) -> None:
    events = await streamed(client, input="cite please", tools=[BROWSER])
    added = [e for e in events if e.type == "response.output_text.annotation.added"]
    last = events[-1]
    assert last.type == "response.completed"
    message = last.response.output[-1]
    assert message.type == "message"
    part = message.content[0]
    assert part.type == "output_text"
    assert part.text == "So【7†L0】, but【3†L1】."
    assert [annotation.model_dump() for annotation in part.annotations] == [
        {
            "type": "url_citation",
            "start_index": 2,
            "end_index": 8,
            "title": "A page",
            "url": "https://a/b",
        }
    ]
    told = [(e.annotation_index, e.annotation.model_dump()) for e in added if e.annotation]
    assert told == [(0, part.annotations[0].model_dump())]
    types = [event.type for event in events]
    assert types.index(added[0].type) < types.index("response.output_text.done")


async def test_calls_are_as_many_as_the_request_allows(
    client: openai.AsyncOpenAI, executor: ToolServer
) -> None:
    response = await client.responses.create(
        model=MODEL, input="please endless", tools=[PYTHON], max_tool_calls=1
    )
    assert len(executor.calls) == 1
    assert response.status == "incomplete"
    calls = [item for item in response.output if item.type == "code_interpreter_call"]
    assert [call.status for call in calls] == ["completed"] + ["incomplete"] * 3
    executor.calls.clear()
    await client.responses.create(
        model=MODEL, input="please endless", tools=[PYTHON], max_tool_calls=99
    )
    assert len(executor.calls) == 3


async def test_a_function_ends_the_response_and_the_conversation_goes_on(
    client: openai.AsyncOpenAI,
) -> None:
    first = await client.responses.create(
        model=MODEL, input="please then call", tools=[PYTHON, FUNCTION], include=OUTPUTS
    )
    assert kinds(first) == ["reasoning", "code_interpreter_call", "function_call"]
    call = first.output[-1]
    assert call.type == "function_call"
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    following = await client.responses.create(
        model=MODEL, input=[output], tools=[PYTHON, FUNCTION], previous_response_id=first.id
    )
    assert following.output_text == "Done."
    # The same without the store: the items are sent back as they came.
    items: list[Any] = [{"role": "user", "content": "please then call"}]
    items += [item.model_dump(exclude_none=True) for item in first.output]
    stateless = await client.responses.create(
        model=MODEL, input=[*items, output], tools=[PYTHON, FUNCTION]
    )
    assert stateless.output_text == "Done."
    listed = await client.responses.input_items.list(stateless.id, order="asc")
    assert "code_interpreter_call" in [item.type for item in listed.data]


async def test_a_response_with_calls_is_stored_whole(client: openai.AsyncOpenAI) -> None:
    made = await client.responses.create(
        model=MODEL, input="please run me", tools=[PYTHON], include=OUTPUTS
    )
    stored = await client.responses.retrieve(made.id)
    assert stored.model_dump() == made.model_dump()


async def test_a_response_in_the_background_runs_tools(
    client: openai.AsyncOpenAI, executor: ToolServer
) -> None:
    begun = await client.responses.create(
        model=MODEL, input="please run me", tools=[PYTHON], background=True
    )
    assert begun.status == "queued"
    # Its sessions are over when it is.
    await until(lambda: bool(executor.calls) and not executor.sessions)
    ended = await client.responses.retrieve(begun.id)
    assert (ended.status, ended.output_text) == ("completed", "Done.")


async def test_a_response_that_is_cancelled_in_a_call_ends_it(
    client: openai.AsyncOpenAI, executor: ToolServer
) -> None:
    begun = await client.responses.create(
        model=MODEL, input="please wait", tools=[PYTHON], background=True
    )
    async with asyncio.timeout(10):
        await executor.called.wait()
    cancelled = await client.responses.cancel(begun.id)
    assert cancelled.status == "cancelled"
    assert [item.to_dict()["status"] for item in cancelled.output] == ["completed", "incomplete"]
    async with asyncio.timeout(10):
        await executor.told_to_stop.wait()
    await until(lambda: not executor.sessions)


async def test_responses_at_the_same_time_have_sessions_of_their_own(
    client: openai.AsyncOpenAI, executor: ToolServer
) -> None:
    words = ["please run me", "please fail here", "browse please"] * 4
    made = await asyncio.gather(
        *(
            client.responses.create(
                model=MODEL, input=word, tools=[BROWSER if "browse" in word else PYTHON]
            )
            for word in words
        )
    )
    assert {response.output_text for response in made} == {"Done."}
    calls: dict[str, list[str]] = {}
    for session, tool, _ in executor.calls:
        calls.setdefault(session, []).append(tool)
    assert sorted(calls.values()) == sorted([["python"]] * 8 + [["search", "open", "find"]] * 4)
    await until(lambda: not executor.sessions)


async def test_a_turn_on_a_websocket_runs_tools(
    client: openai.AsyncOpenAI, executor: ToolServer
) -> None:
    async with client.responses.connect() as connection:
        await connection.response.create(model=MODEL, input="please run me", tools=[PYTHON])
        events: list[Any] = []
        while not events or events[-1].type not in ("response.completed", "error"):
            events.append(await connection.recv())
        assert "response.code_interpreter_call.completed" in [event.type for event in events]
        assert events[-1].response.output_text == "Done."
        # Leaving in the midst of a call ends it.
        await connection.response.create(model=MODEL, input="please wait", tools=[PYTHON])
        await until(lambda: len(executor.calls) == 2)
    async with asyncio.timeout(10):
        await executor.told_to_stop.wait()
    await until(lambda: not executor.sessions)


async def test_prompts_with_tools_can_be_counted(client: openai.AsyncOpenAI) -> None:
    without = await client.responses.input_tokens.count(model=MODEL, input="Hi")
    offered = await client.responses.input_tokens.count(model=MODEL, input="Hi", tools=[PYTHON])
    hidden = await client.responses.input_tokens.count(
        model=MODEL, input="Hi", tools=[PYTHON], tool_choice="none"
    )
    assert offered.input_tokens > without.input_tokens + 50
    assert hidden.input_tokens == without.input_tokens


async def test_an_mcp_tool_is_one_of_the_settings_by_its_label(
    client: openai.AsyncOpenAI, executor: ToolServer
) -> None:
    tool: Any = {"type": "mcp", "server_label": "python", "require_approval": "never"}
    response = await client.responses.create(model=MODEL, input="please run me", tools=[tool])
    assert kinds(response) == ["reasoning", "code_interpreter_call", "message"]
    assert response.tools[0].type == "mcp"


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"type": "mcp", "server_label": "mine"}, "tools[0].server_label"),
        (
            {"type": "mcp", "server_label": "python", "server_url": "http://127.0.0.1:1/"},
            "tools[0].server_url",
        ),
        (
            {"type": "mcp", "server_label": "python", "authorization": "x"},
            "tools[0].authorization",
        ),
        ({"type": "code_interpreter", "container": "cntr_1"}, "tools[0].container"),
        (
            {"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["f"]}},
            "tools[0].container.file_ids",
        ),
        ({"type": "web_search", "filters": {"allowed_domains": ["a"]}}, "tools[0].filters"),
        ({"type": "image_generation"}, "tools[0].type"),
        ({"type": "file_search", "vector_store_ids": ["x"]}, "tools[0].type"),
    ],
)
async def test_what_cannot_be_had_of_a_tool_is_refused_by_name(
    client: openai.AsyncOpenAI, executor: ToolServer, tool: Any, param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model=MODEL, input="hello", tools=[tool])
    assert refused.value.param == param
    assert refused.value.code == "unsupported_value"
    assert not executor.opened


async def test_a_tool_that_is_off_is_refused_by_its_setting(
    directory: Path, tmp_path: Path
) -> None:
    async with running(directory, tmp_path / "store", {}) as (_, client):
        with pytest.raises(openai.BadRequestError, match=r"'tools\.browser'") as refused:
            await client.responses.create(model=MODEL, input="hello", tools=[FUNCTION, BROWSER])
        assert refused.value.param == "tools[1].type"


@pytest.mark.parametrize("stream", [False, True])
async def test_an_executor_that_is_gone_is_a_503_before_anything_is_made(
    directory: Path, executor: ToolServer, tmp_path: Path, stream: bool
) -> None:
    async with ToolServer().running() as gone:
        tools = {"python": {"url": gone.url}}
    async with running(directory, tmp_path / "store", tools) as (app, client):
        with pytest.raises(openai.APIStatusError) as refused:
            await client.responses.create(
                model=MODEL, input="please run me", tools=[PYTHON], stream=stream
            )
        assert (refused.value.status_code, refused.value.code) == (503, "tool_unavailable")
        assert "'python'" in str(refused.value)
        assert gone.url not in str(refused.value)
        # And a response in the background does not come into being.
        with pytest.raises(openai.APIStatusError):
            await client.responses.create(
                model=MODEL, input="please run me", tools=[PYTHON], background=True
            )
        page = (await app.state.service.metrics()).decode()
        assert 'route="responses"' in page


async def test_a_client_that_leaves_in_a_call_ends_it(
    directory: Path, executor: ToolServer, tmp_path: Path
) -> None:
    tools = {"python": {"url": executor.url}}
    async with running(directory, tmp_path / "store", tools) as (_, client):
        port = int(httpx.URL(str(client.base_url)).port or 0)
        body = {"model": MODEL, "input": "please wait", "tools": [PYTHON], "stream": True}
        async with connected(port) as raw:
            await raw.post(body, path="/v1/responses")
            async with asyncio.timeout(10):
                await executor.called.wait()
        async with asyncio.timeout(10):
            await executor.told_to_stop.wait()
            await executor.ended.wait()
        assert executor.cancelled == [2]


async def test_an_engine_that_dies_in_a_later_round_fails_the_stream(
    directory: Path, executor: ToolServer, tmp_path: Path
) -> None:
    tools = {"python": {"url": executor.url}}
    async with running(directory, tmp_path / "store", tools) as (_, client):
        events = await streamed(client, input="please then murder", tools=[PYTHON])
        last = events[-1]
        assert last.type == "response.failed"
        assert kinds(last.response) == ["reasoning", "code_interpreter_call"] * 2 + ["reasoning"]
        statuses = [item.to_dict()["status"] for item in last.response.output]
        assert statuses == ["completed"] * 4 + ["incomplete"]
        await until(lambda: not executor.sessions)


async def test_calls_are_counted(directory: Path, executor: ToolServer, tmp_path: Path) -> None:
    tools = {"python": {"url": executor.url}}
    async with running(directory, tmp_path / "store", tools) as (app, client):
        await client.responses.create(model=MODEL, input="please run me", tools=[PYTHON])
        await client.responses.create(model=MODEL, input="please fail here", tools=[PYTHON])
        page = (await app.state.service.metrics()).decode()
    assert 'llmserve_tool_calls_total{outcome="completed",tool="python"} 1.0' in page
    assert 'llmserve_tool_calls_total{outcome="failed",tool="python"} 1.0' in page
    # A request counts once, however many rounds it has.
    line = 'llmserve_requests_total{code="",lane="p1",outcome="ok",route="responses"} 2.0'
    assert line in page
