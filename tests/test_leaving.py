"""How the service under the real `bentoml serve` takes leave, and whom it lets in."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

import model_assets
from serving.engines.replay import directory as replay_engine
from serving.engines.replay.script import Delay, Scenario, Script, ScriptStep, Tokens
from serving.harmony import vocabulary as words
from serving.harmony.vocabulary import Vocabulary
from serving.settings import Store
from serving.store.stores import Stores
from tests.commands import Served, serve

RANKS = Path(model_assets.__file__).parent / "tokenizer" / "o200k_base.tiktoken.xz"
MODEL = "openai/gpt-oss-120b"
TENANT = "default"
BEGUN, DONE = "Well", " done"
"""A token each: what are two may come in two events."""
FILES = 256
SILENT = 400


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A replay engine that answers at once; slowly or hardly ever where the prompt says so."""
    vocabulary = Vocabulary.load(RANKS)
    opening = (words.CHANNEL, *vocabulary.encode("final"), words.MESSAGE)

    def scenario(word: str | None, seconds: float) -> Scenario:
        steps: tuple[ScriptStep, ...] = (
            Tokens(ids=(*opening, *vocabulary.encode(BEGUN))),
            Delay(seconds=seconds),
            Tokens(ids=(*vocabulary.encode(DONE), words.RETURN)),
        )
        return Scenario(match=tuple(vocabulary.encode(word)) if word else (), steps=steps)

    script = Script(
        scenarios=(scenario(" slowly", 6.0), scenario(" never", 600.0), scenario(None, 0.0))
    )
    directory = tmp_path_factory.mktemp("replay") / "engine"
    replay_engine.write(directory, script, ranks=RANKS)
    return directory


def environment(engine: Path, tmp_path: Path, **drain: float) -> dict[str, str]:
    settings = {f"GPT_OSS_DRAIN__{name.upper()}": str(value) for name, value in drain.items()}
    return {"GPT_OSS_ENGINE": str(engine), "XDG_STATE_HOME": str(tmp_path / "state"), **settings}


def chat(how: str, **fields: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": f"Count {how}"}], **fields}


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    due = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < due, "what the test waits for has not come"
        time.sleep(0.05)


def refuses(served: Served) -> bool:
    try:
        socket.create_connection(("127.0.0.1", urlsplit(served.url).port), 1).close()
    except ConnectionRefusedError:
        return True
    return False


class Reading:
    """A stream that a thread reads."""

    def __init__(self, served: Served, how: str) -> None:
        self.lines: list[str] = []
        self.begun = threading.Event()
        self._url = f"{served.url}/v1/chat/completions"
        self._body = chat(how, stream=True)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        assert self.begun.wait(60)

    def end(self) -> list[str]:
        """Returns its lines once it is over."""
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.lines

    def _read(self) -> None:
        with httpx.stream("POST", self._url, json=self._body, timeout=60) as answer:
            for line in answer.iter_lines():
                if line:
                    self.lines.append(line)
                if BEGUN in line:
                    self.begun.set()


def test_after_sigterm_comes_a_notice_then_the_port_is_closed_and_streams_finish(
    engine: Path, tmp_path: Path
) -> None:
    extra = environment(engine, tmp_path, notice_seconds=3)
    with serve(tmp_path, extra=extra) as served, httpx.Client(base_url=served.url) as kept:
        served.wait_until_ready()
        processes = served.processes()
        stream = Reading(served, "slowly")
        assert kept.get("/readyz").status_code == 200
        served.process.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(f"{served.url}/readyz").status_code == 503)
        assert httpx.get(f"{served.url}/readyz").json()["status"] == "draining"
        answer = httpx.post(f"{served.url}/v1/chat/completions", json=chat("at once"))
        assert answer.status_code == 200
        assert answer.headers["connection"] == "close"
        until(lambda: refuses(served))
        late = kept.post("/v1/chat/completions", json=chat("at once"))
        assert (late.status_code, late.json()["error"]["code"]) == (503, "draining")
        assert late.headers["connection"] == "close"
        assert int(late.headers["retry-after"]) > 0
        lines = stream.end()
        assert any("done" in line for line in lines)
        assert lines[-1] == "data: [DONE]"
        served.wait_for_exit()
        assert psutil.wait_procs(processes, timeout=10)[1] == []


def test_a_stream_that_takes_too_long_ends_with_an_error_event(
    engine: Path, tmp_path: Path
) -> None:
    extra = environment(engine, tmp_path, notice_seconds=0, running_seconds=2)
    with serve(tmp_path, extra=extra) as served:
        served.wait_until_ready()
        processes = served.processes()
        stream = Reading(served, "never")
        asked = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        last = stream.end()[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "draining"
        assert time.monotonic() - asked > 1.5
        served.wait_for_exit()
        assert psutil.wait_procs(processes, timeout=10)[1] == []
        assert "Traceback" not in served.output


@pytest.mark.parametrize(("how", "status"), [("slowly", "completed"), ("never", "failed")])
def test_a_response_in_the_background_keeps_the_service_alone(
    engine: Path, tmp_path: Path, how: str, status: str
) -> None:
    extra = environment(engine, tmp_path, notice_seconds=0, running_seconds=9)
    with serve(tmp_path, extra=extra) as served:
        served.wait_until_ready()
        body = {"model": MODEL, "input": f"Count {how}", "background": True}
        name = httpx.post(f"{served.url}/v1/responses", json=body).json()["id"]
        served.process.send_signal(signal.SIGTERM)
        served.wait_for_exit()
    kept = asyncio.run(stored(tmp_path / "state/gpt-oss-120b/responses.sqlite3", name))
    assert kept["status"] == status
    if status == "failed":
        assert "shutting down" in kept["error"]["message"]


async def stored(path: Path, name: str) -> dict[str, Any]:
    """Returns a response as the file has it."""
    stores = Stores(
        path,
        Store(),
        now=time.time,
        on_change=lambda change: pytest.fail(str(change)),
        on_failure=lambda way, reason: pytest.fail(f"{way}: {reason}"),
    )
    found = await stores.responses.load(TENANT, name)
    await stores.close()
    assert found is not None
    body: dict[str, Any] = json.loads(found.body)
    return body


def test_ctrl_c_refuses_at_once_and_lets_a_stream_finish(engine: Path, tmp_path: Path) -> None:
    extra = environment(engine, tmp_path, notice_seconds=60)
    with serve(tmp_path, extra=extra) as served:
        served.wait_until_ready()
        processes = served.processes()
        stream = Reading(served, "slowly")
        for process in processes:  # as a terminal does: to the whole foreground group
            process.send_signal(signal.SIGINT)
        until(lambda: refuses(served), 5)
        assert stream.end()[-1] == "data: [DONE]"
        served.wait_for_exit()
        assert psutil.wait_procs(processes, timeout=10)[1] == []


def test_probes_are_answered_whoever_holds_connections(engine: Path, tmp_path: Path) -> None:
    few = partial(resource.setrlimit, resource.RLIMIT_NOFILE, (FILES, FILES))
    with (
        serve(tmp_path, extra=environment(engine, tmp_path), before=few) as served,
        ExitStack() as stack,
    ):
        served.wait_until_ready()
        worker = psutil.Process(served.engine().ppid())
        assert worker.rlimit(psutil.RLIMIT_NOFILE) == (FILES, FILES)
        address = ("127.0.0.1", urlsplit(served.url).port)
        for _ in range(SILENT):
            stack.enter_context(socket.create_connection(address))
        for path in ("/livez", "/readyz", "/metrics"):
            assert httpx.get(served.url + path).status_code == 200, path
        answer = httpx.post(f"{served.url}/v1/chat/completions", json=chat("at once"))
        assert answer.status_code == 200
        assert worker.num_fds() < FILES
        served.wait_for("connections are open, which is the most")
        metrics = httpx.get(f"{served.url}/metrics").text
        closed = 'llmserve_connections_closed_total{reason="silent"} '
        (line,) = (line for line in metrics.splitlines() if line.startswith(closed))
        assert float(line.split()[-1]) > SILENT - FILES
