"""The Responses API over a replay engine in its own process, and the official client."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
from starlette.applications import Starlette

from serving.app import create_app
from serving.boundary.lifecycle import Policy, Transition
from serving.boundary.supervisor import Supervisor
from serving.engines.replay.script import Delay, Die, Scenario, Script, Tokens
from serving.fleet.service import Supervised
from serving.harmony.conversation import Assistant, ToolCall
from serving.harmony.render import render_completion
from serving.harmony.vocabulary import CHANNEL, MESSAGE, Vocabulary
from serving.settings import Settings
from tests.serving.protocols.edge.server import listening, until_ready

WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Tells the weather.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
SUMMARY = "It rained in Paris."
CALL = ToolCall(name="get_weather", arguments='{"city": "Paris"}')
QUICK = Policy(backoff_first_seconds=0.05, stop_seconds=2.0)


def make_script(vocabulary: Vocabulary) -> Script:
    """Returns what the engine plays, chosen by a word of the prompt."""

    def scenario(word: str, *steps: Any) -> Scenario:
        return Scenario(match=tuple(vocabulary.encode(word)), steps=steps)

    hello = render_completion(
        Assistant(reasoning="A greeting 😀.", content="Hello, wörld 😀!"), vocabulary
    )
    call = render_completion(
        Assistant(reasoning="Look.", content="I look.", calls=(CALL,)), vocabulary
    )
    summary = render_completion(Assistant(reasoning="Hm.", content=SUMMARY), vocabulary)
    some = (CHANNEL, *vocabulary.encode("final"), MESSAGE, *vocabulary.encode("some words"))
    return Script(
        pace_seconds=0.001,
        scenarios=(
            scenario("Stop here. Write a summary", Tokens(ids=tuple(summary))),
            scenario("murder", Tokens(ids=some), Delay(seconds=0.2), Die()),
            scenario(" endless", Tokens(ids=some), Delay(seconds=60.0)),
            scenario(" sunshine", Tokens(ids=tuple(hello))),
            scenario(" rainfall", Tokens(ids=tuple(call))),
            Scenario(steps=(Tokens(ids=tuple(hello)),)),
        ),
    )


def launch(directory: Path, on_transition: Callable[[Transition], None]) -> Supervised:
    return Supervisor(directory, QUICK, on_transition=on_transition)


@asynccontextmanager
async def replaying(
    directory: Path, store: Path, **options: Any
) -> AsyncGenerator[tuple[Starlette, str]]:
    """Yields a ready app over the engine and the store, and its base URL."""
    settings = Settings.model_validate({"log_level": "error", "store": {"path": str(store)}})
    app = create_app(settings, launch=launch, **options)
    app.state.engine_directory = directory
    async with listening(app) as port:
        await until_ready(app.state.service)
        yield app, f"http://127.0.0.1:{port}/v1"


def strict_client(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=url, api_key="none", max_retries=0, _strict_response_validation=True
    )
