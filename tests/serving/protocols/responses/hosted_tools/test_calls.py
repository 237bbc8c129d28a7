"""Built-in tools in responses, through the official client."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.serving.protocols.edge.server import MODEL, until
from tests.serving.protocols.responses.hosted_tools.scene import (
    BROWSER,
    FUNCTION,
    OUTPUTS,
    PYTHON,
    comparable,
    kinds,
    running,
    streamed,
)
from tests.serving.tools.server import ToolServer


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
    stream = await client.responses.create(
        model=MODEL, input="please run me", tools=[PYTHON], background=True, stream=True
    )
    begun = await anext(aiter(stream))
    assert begun.type == "response.created"
    await stream.close()  # it goes on without its client
    following = await client.responses.retrieve(begun.response.id, stream=True, starting_after=0)
    types = [event.type async for event in following]
    assert "response.code_interpreter_call.completed" in types
    assert types[-1] == "response.completed"
    ended = await client.responses.retrieve(begun.response.id)
    assert (ended.status, ended.output_text) == ("completed", "Done.")
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
