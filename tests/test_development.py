"""From the development checkpoint to an OpenAI client's answer by real commands, without a GPU."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import httpx
import openai
import pydantic
import pytest
from openai.types.chat import ChatCompletionMessageFunctionToolCall

from serving.boundary import engine
from tests.commands import Served, run, serve
from tests.development import COMMAND, MODEL, Machine

QUESTION: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
IDLE_BYTES = 1_000_000_000


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A machine on which the development engine has been built once."""
    made = Machine(tmp_path_factory.mktemp("machine"))
    assert "built in" in made.build()
    return made


@pytest.fixture(scope="module")
def served(machine: Machine) -> Iterator[Served]:
    """The development engine, served from the model store."""
    with serve(machine.home) as running:
        running.wait_until_ready()
        yield running


def test_a_second_build_does_no_work(machine: Machine) -> None:
    assert "up to date" in machine.build()


def test_the_engine_is_sound_and_gives_its_golden_answers_again(machine: Machine) -> None:
    built = engine.verify(machine.engine)
    assert built.model.stand_in
    assert [golden.name for golden in built.golden] == ["greeting", "fact", "tool"]
    assert all(golden.tokens for golden in built.golden)
    done = run([*COMMAND, "verify", str(machine.engine), "--run"], machine.home)
    assert done.returncode == 0, done.stderr
    assert built.digest in done.stdout


def test_all_processes_together_idle_below_a_gigabyte(served: Served) -> None:
    resident_bytes = [process.memory_info().rss for process in served.processes()]
    assert sum(resident_bytes) < IDLE_BYTES, resident_bytes


def test_an_openai_client_holds_a_streaming_conversation(served: Served) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
        stream = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            temperature=0,
            stream=True,
        )
        deltas = [chunk.choices[0].delta for chunk in stream if chunk.choices]
    assert "Paris" in "".join(delta.content or "" for delta in deltas)
    assert "".join(str(getattr(delta, "reasoning", None) or "") for delta in deltas)


def test_the_service_says_that_its_model_is_a_stand_in(served: Served) -> None:
    model = httpx.get(f"{served.url}/v1/models").json()["data"][0]
    assert model["id"] == MODEL
    assert model["engine"]["stand_in"] is True


class Town(pydantic.BaseModel):
    """What the model is made to answer."""

    country: Literal["France", "Italy"]
    capital: bool
    millions: Annotated[int, pydantic.Field(ge=0, le=50)]


def strict(name: str, **properties: Any) -> Any:
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    function = {"name": name, "parameters": schema, "strict": True}
    return {"type": "function", "function": function}


TOOLS = [
    strict("get_weather", city={"type": "string", "maxLength": 16}, unit={"enum": ["c", "f"]}),
    strict("get_time", zone={"enum": ["utc", "cet"]}),
]


@pytest.mark.parametrize("seed", [1, 2])
def test_an_answer_is_held_to_a_pydantic_model(served: Served, seed: int) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
        answer = client.chat.completions.parse(
            model=MODEL, messages=QUESTION, response_format=Town, seed=seed, max_tokens=800
        )
    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(answer.choices[0].message.parsed, Town)
    reasoning = (answer.choices[0].message.model_extra or {}).get("reasoning")
    assert reasoning, "what comes before the answer stays free"


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_time"}}]
)
def test_a_call_is_forced_and_its_arguments_fit_also_in_a_stream(
    served: Served, choice: Any
) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
        stream = client.chat.completions.create(
            model=MODEL,
            messages=QUESTION,
            tools=TOOLS,
            tool_choice=choice,
            max_tokens=400,
            n=4,
            seed=3,
            stream=True,
        )
        chunks = [chunk.choices[0] for chunk in stream if chunk.choices]
    finished = [chunk.index for chunk in chunks if chunk.finish_reason == "tool_calls"]
    # The reasoning before a call is free, and the small model does not always find its end.
    assert {chunk.finish_reason for chunk in chunks} <= {None, "tool_calls", "length"}
    assert finished
    assert "".join(chunk.delta.content or "" for chunk in chunks) == ""
    for index in finished:
        deltas = [chunk.delta for chunk in chunks if chunk.index == index]
        calls = [call.function for delta in deltas for call in delta.tool_calls or ()]
        names = [call.name for call in calls if call and call.name]
        arguments = json.loads("".join(call.arguments or "" for call in calls if call))
        if choice != "required":
            assert names == ["get_time"]
        if names == ["get_time"]:
            assert arguments in ({"zone": "utc"}, {"zone": "cet"})
        else:
            assert names == ["get_weather"]
            assert set(arguments) == {"city", "unit"}


def test_a_tool_is_called_and_its_result_is_told(served: Served) -> None:
    location = {"type": "string", "description": "City and country e.g. Bogotá, Colombia"}
    tools = [strict("get_weather", location=location)]
    asked: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
        first = client.chat.completions.create(
            model=MODEL, messages=asked, tools=tools, temperature=0
        ).choices[0]
        assert first.finish_reason == "tool_calls"
        (call,) = first.message.tool_calls or []
        assert isinstance(call, ChatCompletionMessageFunctionToolCall)
        assert call.function.name == "get_weather"
        assert json.loads(call.function.arguments) == {"location": "Paris"}
        asked.append(first.message.to_dict())
        asked.append({"role": "tool", "tool_call_id": call.id, "content": '{"temperature": 14}'})
        second = client.chat.completions.create(
            model=MODEL, messages=asked, tools=tools, temperature=0
        ).choices[0]
    assert second.finish_reason == "stop"
    assert "14 degrees" in (second.message.content or "")


async def test_bound_and_free_streams_run_beside_each_other(served: Served) -> None:
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none") as client:

        async def free() -> str:
            answer = await client.chat.completions.create(
                model=MODEL, messages=QUESTION, temperature=0
            )
            return answer.choices[0].message.content or ""

        async def bound(seed: int) -> Town | None:
            answer = await client.chat.completions.parse(
                model=MODEL, messages=QUESTION, response_format=Town, seed=seed, max_tokens=800
            )
            return answer.choices[0].message.parsed

        alone = await free()
        towns = [asyncio.create_task(bound(seed)) for seed in range(4)]
        texts = await asyncio.gather(*(free() for _ in range(4)))
        assert texts == [alone] * 4
        assert all(isinstance(town, Town) for town in await asyncio.gather(*towns))


def test_a_schema_that_does_not_compile_is_a_bad_request(served: Served) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": "(("}}}
    body = {
        "model": MODEL,
        "messages": QUESTION,
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    }
    answer = httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == "response_format"
    assert "parenthesis" in error["message"]
