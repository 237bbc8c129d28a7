"""What the service says of its engine in every state: in the log, to clients, on the metrics page.

The engines are processes that play their faults.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from serving.app import create_app
from serving.boundary.lifecycle import Policy, Transition
from serving.boundary.messages import ExitCode
from serving.boundary.supervisor import Supervisor
from serving.engines.replay.script import (
    Die,
    Fail,
    Freeze,
    Hang,
    Refuse,
    Repeat,
    Scenario,
    Script,
    ScriptStep,
    Tokens,
)
from serving.fleet.service import Supervised
from serving.harmony.vocabulary import CHANNEL, MESSAGE, Vocabulary
from serving.settings import Settings
from serving.telemetry.logs import make_logger
from tests.conftest import ReplayEngine
from tests.serving.protocols.edge.server import chat_body, eventually, listening, until, until_ready

WATCHFUL = Policy(
    backoff_first_seconds=0.02,
    ping_seconds=0.05,
    stall_seconds=1.0,
    progress_seconds=1.0,
    stop_seconds=2.0,
)
GAUGES = ("num_requests_running", "kv_cache_utilization", "kv_cache_max_blocks")


class Scene:
    """A served engine, what was logged at the highest level, and a client."""

    def __init__(self, app: Starlette, client: httpx.AsyncClient, log: io.StringIO) -> None:
        self.app = app
        self.client = client
        self._log = log

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.getvalue().splitlines()]

    @property
    def pid(self) -> int:
        pid: int = self.app.state.service._supervised.pid
        return pid

    async def ask(self, text: str = "Hello") -> httpx.Response:
        messages = [{"role": "user", "content": text}]
        return await self.client.post("/v1/chat/completions", json=chat_body(messages=messages))

    async def metrics(self) -> dict[str, float]:
        """Returns the page, each series by its name and one label's value."""
        page = (await self.client.get("/metrics")).text
        lines = [line for line in page.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    async def is_busy(self) -> bool:
        """Returns whether the engine says that it works on one request."""
        return (await self.gauges()).get("num_requests_running") == 1

    async def is_idle(self) -> bool:
        """Returns whether no request is open."""
        return (await self.metrics())["llmserve_open_requests"] == 0

    async def gauges(self) -> dict[str, float]:
        """Returns what the page says of the engine's memory and batch."""
        found = await self.metrics()
        return {
            name: value
            for name in GAUGES
            for series, value in found.items()
            if series.startswith(f"trtllm_{name}{{")
        }


Serve = Callable[..., AbstractAsyncContextManager[Scene]]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, vocabulary: Vocabulary) -> Serve:
    """Returns a function that serves an engine directory, as a context."""
    monkeypatch.setattr(Vocabulary, "load", lambda path: vocabulary)

    @asynccontextmanager
    async def begin(
        directory: Path, policy: Policy = WATCHFUL, *, ready: bool = True
    ) -> AsyncGenerator[Scene]:
        log = io.StringIO()
        monkeypatch.setattr("serving.app.make_logger", lambda level: make_logger(level, log))

        def launch(path: Path, on_transition: Callable[[Transition], None]) -> Supervised:
            return Supervisor(path, policy, on_transition=on_transition)

        app = create_app(Settings(log_level="error", engine=str(directory)), launch=launch)
        async with (
            listening(app) as port,
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client,
        ):
            if ready:
                await until_ready(app.state.service)
            yield Scene(app, client, log)

    return begin


def faulty(vocabulary: Vocabulary, *steps: ScriptStep) -> Script:
    """Returns a script that plays `steps` when the prompt says `murder`, and else talks on."""
    begin = Tokens(ids=(CHANNEL, *vocabulary.encode("final"), MESSAGE))
    return Script(
        pace_seconds=0.001,
        scenarios=(
            Scenario(match=tuple(vocabulary.encode("murder")), steps=(begin, *steps)),
            Scenario(steps=(begin, Repeat(ids=tuple(vocabulary.encode(" on"))))),
        ),
    )


@pytest.mark.parametrize(
    ("fault", "cause", "exit_code"),
    [
        (Die(), "killed", -9),
        (Die(exit_code=3), "exited", 3),
        (Fail(message="no more"), "fatal", 70),
        (Fail(exit_code=ExitCode.OUT_OF_MEMORY), "out_of_memory", 71),
        (Hang(), "hung", -9),
        (Freeze(), "no_progress", -9),
    ],
)
async def test_each_loss_is_one_line_and_one_count(
    serve: Serve,
    replay_engine: ReplayEngine,
    vocabulary: Vocabulary,
    fault: ScriptStep,
    cause: str,
    exit_code: int,
) -> None:
    async with serve(replay_engine(faulty(vocabulary, fault))) as scene:
        answer = await scene.ask("murder")
        assert answer.status_code == 503
        await until(lambda: bool(scene.lines))
        (line,) = scene.lines
        told = {name: line[name] for name in ("event", "level", "state", "cause", "exit_code")}
        assert told == {
            "event": "engine",
            "level": "error",
            "state": "backoff",
            "cause": cause,
            "exit_code": exit_code,
        }
        assert line["restart_seconds"] == pytest.approx(0.02)
        await until_ready(scene.app.state.service)
        metrics = await scene.metrics()
        assert metrics[f'llmserve_engine_losses_total{{cause="{cause}"}}'] == 1
        assert metrics["llmserve_engine_restarts_total"] == 1


async def test_an_engine_that_hangs_keeps_its_last_known_gauges(
    serve: Serve, replay_engine: ReplayEngine, vocabulary: Vocabulary
) -> None:
    patient = replace(WATCHFUL, stall_seconds=60.0, progress_seconds=60.0)
    async with serve(replay_engine(faulty(vocabulary)), patient) as scene:
        asked = asyncio.create_task(scene.ask())
        await eventually(scene.is_busy)
        os.kill(scene.pid, signal.SIGSTOP)
        try:
            first, second = await scene.gauges(), await scene.gauges()
            assert first["num_requests_running"] == second["num_requests_running"] == 1
            assert set(first) == set(second) == set(GAUGES)
            assert first["kv_cache_max_blocks"] > 0
            assert (await scene.metrics())["llmserve_open_requests"] == 1
            assert (await scene.metrics())['llmserve_engine_state{state="ready"}'] == 1
        finally:
            os.kill(scene.pid, signal.SIGCONT)
        asked.cancel()
        await asyncio.wait({asked})
        await eventually(scene.is_idle)


async def test_while_there_is_no_engine_nothing_is_said_of_one(
    serve: Serve, replay_engine: ReplayEngine, vocabulary: Vocabulary
) -> None:
    slow = replace(WATCHFUL, backoff_first_seconds=60.0)
    async with serve(replay_engine(faulty(vocabulary)), slow) as scene:
        assert set(await scene.gauges()) == set(GAUGES)
        os.kill(scene.pid, signal.SIGKILL)
        await until(lambda: bool(scene.lines))
        assert await scene.gauges() == {}
        metrics = await scene.metrics()
        assert metrics['llmserve_engine_state{state="backoff"}'] == 1
        assert [v for name, v in metrics.items() if "num_requests_waiting" in name] == [0]
        answer = await scene.ask()
        assert (answer.status_code, int(answer.headers["retry-after"]) > 50) == (503, True)
        assert "being restarted" in answer.json()["error"]["message"]


async def failed_for_good(scene: Scene, why: str) -> None:
    """Checks what an engine that is given up is in every place."""
    await until(lambda: not scene.app.state.service.alive)
    body = {"model": "openai/gpt-oss-120b", "input": "x", "max_tokens": 5}
    message = {"messages": [{"role": "user", "content": "x"}]}
    asked = [
        await scene.ask(),
        await scene.client.post("/v1/responses", json=body),
        await scene.client.post("/v1/completions", json={**body, "prompt": "x"}),
        await scene.client.post("/v1/messages", json={**body, **message}),
    ]
    for answer in asked:
        assert answer.status_code == 503
        assert f"has failed: {why}" in answer.json()["error"]["message"]
        assert "/" not in answer.json()["error"]["message"]
        assert "retry-after" not in answer.headers
    assert (await scene.client.get("/livez")).status_code == 503
    ready = await scene.client.get("/readyz")
    assert (ready.status_code, ready.json()["engine"]) == (503, "failed")
    assert (await scene.metrics())['llmserve_engine_state{state="failed"}'] == 1
    assert await scene.gauges() == {}


async def test_an_engine_that_dies_at_each_start_is_given_up(
    serve: Serve, replay_engine: ReplayEngine, vocabulary: Vocabulary
) -> None:
    short = replace(WATCHFUL, max_failures=3)
    script = Script(scenarios=faulty(vocabulary).scenarios, load=(Die(exit_code=5),))
    async with serve(replay_engine(script), short, ready=False) as scene:
        await failed_for_good(scene, "its process ended")
        assert [(line["state"], line["exit_code"]) for line in scene.lines] == [
            ("backoff", 5),
            ("backoff", 5),
            ("failed", 5),
        ]


async def test_an_engine_that_refuses_is_given_up_at_once(
    serve: Serve, replay_engine: ReplayEngine, vocabulary: Vocabulary
) -> None:
    script = Script(scenarios=faulty(vocabulary).scenarios, load=(Refuse(message="another GPU"),))
    async with serve(replay_engine(script), ready=False) as scene:
        await failed_for_good(scene, "it is damaged or does not belong on this machine")
        (line,) = scene.lines
        assert (line["state"], line["cause"], line["exit_code"]) == ("failed", "refused", 78)
        assert "another GPU" in line["detail"]


def _missing(directory: Path) -> None:
    directory.rename(directory.with_name("elsewhere"))


def _no_manifest(directory: Path) -> None:
    (directory / "engine.json").write_text("{")


def _unreadable(directory: Path) -> None:
    # A directory in its place cannot be read by anyone, root too.
    (directory / "engine.json").unlink()
    (directory / "engine.json").mkdir()


@pytest.mark.parametrize("harm", [_missing, _no_manifest, _unreadable])
async def test_a_directory_that_cannot_be_used_is_one_line(
    serve: Serve,
    replay_engine: ReplayEngine,
    vocabulary: Vocabulary,
    harm: Callable[[Path], None],
) -> None:
    directory = replay_engine(faulty(vocabulary))
    harm(directory)
    async with serve(directory, ready=False) as scene:
        await failed_for_good(scene, "it cannot be used")
        (line,) = scene.lines
        assert (line["event"], line["level"]) == ("engine refused", "error")
        assert str(directory) in line["reason"]
        assert "exception" not in line


async def test_what_fails_after_the_engine_was_started_ends_it(
    serve: Serve,
    replay_engine: ReplayEngine,
    vocabulary: Vocabulary,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory = replay_engine(faulty(vocabulary))

    def unreadable(path: Path) -> Vocabulary:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr(Vocabulary, "load", unreadable)
    async with serve(directory, ready=False) as scene:
        await until(lambda: not scene.app.state.service.alive)
        await until(lambda: scene.app.state.service._supervised.pid is None)
        assert [line["event"] for line in scene.lines] == ["engine refused"]
