"""What the engine plays when responses call built-in tools, and the service around it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
from openai.types.responses import Response, ResponseStreamEvent
from starlette.applications import Starlette

from serving.app import create_app
from serving.engines.replay.script import Delay, Die, Scenario, Script, Tokens
from serving.harmony.vocabulary import Vocabulary
from serving.settings import Settings
from tests.serving.harmony.oracle import tokenize
from tests.serving.protocols.edge.server import MODEL, listening, until_ready
from tests.serving.protocols.responses.service import launch, strict_client

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
    directory: Path, store: Path, tools: dict[str, Any], **settings: Any
) -> AsyncGenerator[tuple[Starlette, openai.AsyncOpenAI]]:
    """Yields a ready app with these tools, and the official client of it."""
    values = {"log_level": "error", "store": {"path": str(store)}, "tools": tools, **settings}
    app = create_app(Settings.model_validate(values), launch=launch)
    app.state.engine_directory = directory
    async with listening(app) as port:
        await until_ready(app.state.service)
        async with strict_client(f"http://127.0.0.1:{port}/v1") as client:
            yield app, client


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
