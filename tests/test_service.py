"""The service under the real `bentoml serve`: what it shows, what it hides, how it ends."""

from __future__ import annotations

import json
import shlex
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import openai
import psutil
import pytest

import model_assets
from serving.engines.replay import directory as replay_engine
from serving.engines.replay.script import Delay, Scenario, Script, ScriptStep, Tokens
from serving.harmony import vocabulary as words
from serving.harmony.vocabulary import Vocabulary
from tests.commands import Served, serve

RANKS = Path(model_assets.__file__).parent / "tokenizer" / "o200k_base.tiktoken.xz"
MODEL = "openai/gpt-oss-120b"
ANSWER = "The answer of the script."


def script() -> Script:
    """Returns a script that answers at once, and slowly when the prompt says `slowly`."""
    vocabulary = Vocabulary.load(RANKS)
    opening = (words.CHANNEL, *vocabulary.encode("final"), words.MESSAGE)
    said = Tokens(ids=(*opening, *vocabulary.encode(ANSWER), words.RETURN))
    slowly: tuple[ScriptStep, ...] = (
        Tokens(ids=opening),
        *(Tokens(ids=tuple(vocabulary.encode(f" {n}"))) for n in range(3)),
        Delay(seconds=3.0),
        Tokens(ids=(*vocabulary.encode(" end"), words.RETURN)),
    )
    return Script(
        scenarios=(
            Scenario(match=tuple(vocabulary.encode(" slowly")), steps=slowly),
            Scenario(steps=(said,)),
        )
    )


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A replay engine, built once."""
    directory = tmp_path_factory.mktemp("replay") / "engine"
    replay_engine.write(directory, script(), ranks=RANKS)
    return directory


@pytest.fixture(scope="module")
def served(engine: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A service that several tests look at and none disturbs."""
    home = tmp_path_factory.mktemp("bentoml")
    with serve(home, extra={"GPT_OSS_ENGINE": str(engine)}) as running:
        running.wait_until_ready()
        yield running


def test_the_closing_line_holds_the_url_and_a_command_that_works(served: Served) -> None:
    line = served.wait_until_ready()
    assert f"{served.url}/v1" in line
    command = shlex.split(line[line.index("curl") :])
    assert command[:3] == ["curl", "-s", f"{served.url}/v1/chat/completions"]
    body = json.loads(command[command.index("-d") + 1])
    answer = httpx.post(command[2], json=body)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == ANSWER
    assert served.output.count("Ready: ") == 1


def test_the_openai_client_streams_through_bentoml(served: Served) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
        stream = client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": "Hello!"}], stream=True
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert text == ANSWER


def test_the_openai_client_has_a_websocket_through_bentoml(served: Served) -> None:
    with (
        openai.OpenAI(base_url=f"{served.url}/v1", api_key="none") as client,
        client.responses.connect() as connection,
    ):
        previous: str | None = None
        for text in ("Hello!", "And again!"):
            connection.response.create(
                model=MODEL, input=text, store=False, previous_response_id=previous
            )
            for event in connection:
                assert event.type != "error"
                if event.type == "response.completed":
                    assert event.response.output_text == ANSWER
                    previous = event.response.id
                    break
    assert previous is not None


@pytest.mark.parametrize(
    "path", ["/", "/docs.json", "/schema.json", "/static_content/index.css", "/nothing"]
)
def test_the_pages_of_bentoml_are_hidden(served: Served, path: str) -> None:
    answer = httpx.get(served.url + path)
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/health", "/metrics", "/v1/models"])
def test_the_probes_and_the_metrics_are_the_services_own(served: Served, path: str) -> None:
    answer = httpx.get(served.url + path)
    assert answer.status_code == 200
    assert answer.headers["x-request-id"]


def test_an_idle_connection_outlives_the_pool_of_a_proxy(served: Served) -> None:
    with httpx.Client(limits=httpx.Limits(keepalive_expiry=60)) as client:
        connection = client.get(f"{served.url}/livez").extensions["network_stream"]
        port = connection.get_extra_info("client_addr")[1]
        time.sleep(6)  # uvicorn's own bound is five seconds
        again = client.get(f"{served.url}/livez").extensions["network_stream"]
        assert again.get_extra_info("client_addr")[1] == port


def test_a_request_that_asks_for_http_2_is_answered(served: Served) -> None:
    """As Java's HttpClient asks. https://www.rfc-editor.org/rfc/rfc9110#section-7.8"""
    wish = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAEAAEAA"}
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello!"}]}
    with httpx.Client() as client:
        for _ in range(2):
            answer = client.post(f"{served.url}/v1/chat/completions", json=body, headers=wish)
            assert answer.status_code == 200
            assert answer.json()["choices"][0]["message"]["content"] == ANSWER


def test_a_websocket_that_only_pings_is_left_and_nobody_waits_for_it(served: Served) -> None:
    port = int(served.url.rsplit(":", 1)[1])
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.sendall(
            b"GET /v1/responses HTTP/1.1\r\nhost: a\r\n"
            b"upgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert b" 101 " in raw.recv(4096)
        with suppress(ConnectionError):
            for _ in range(1000):
                raw.sendall((b"\x89\x80" + bytes(4)) * 10_000)
                assert httpx.get(f"{served.url}/livez", timeout=2).status_code == 200
        told = b""
        with suppress(ConnectionError):
            while piece := raw.recv(65536):
                told += piece
    assert b"\x03\xf0too many frames" in told  # 1008


def test_a_page_of_another_origin_is_refused(served: Served) -> None:
    for headers in ({"origin": "https://evil.example"}, {"host": "evil.example"}):
        for path in ("/v1/chat/completions", "/v1/responses"):
            assert httpx.post(served.url + path, content=b"{}", headers=headers).status_code == 403


def test_what_bentoml_uvicorn_and_python_log_is_json(served: Served) -> None:
    """But for what the terminal shows, and what is told before `service.py` is read."""
    with socket.create_connection(("127.0.0.1", int(served.url.rsplit(":", 1)[1]))) as raw:
        raw.sendall(b"nonsense\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.1 400 ")
    served.wait_for("Invalid HTTP request")
    lines = served.output.splitlines()
    logged = [json.loads(line) for line in lines if line.startswith("{")]
    assert {"bentoml.serve", "uvicorn.error"} <= {line.get("logger") for line in logged}
    spoken = ("Ready: ", "The engine is ")
    others = [line for line in lines if not line.startswith(("{", *spoken))]
    assert not [line for line in others if "option is ignored" not in line]


def test_there_is_one_process_each_for_bentoml_the_api_and_the_engine(served: Served) -> None:
    assert len(served.processes()) == 3
    assert served.engine().ppid() != served.process.pid


def test_the_api_process_has_no_torch(served: Served) -> None:
    worker = psutil.Process(served.engine().ppid())
    mapped = {Path(region.path).name for region in worker.memory_maps()}
    assert not [name for name in mapped if name.startswith("libtorch")]


def test_sigterm_lets_a_stream_finish_and_leaves_no_process(engine: Path, tmp_path: Path) -> None:
    with serve(tmp_path, extra={"GPT_OSS_ENGINE": str(engine)}) as served:
        served.wait_until_ready()
        processes = served.processes()
        body = {
            "model": MODEL,
            "stream": True,
            "messages": [{"role": "user", "content": "Count slowly"}],
        }
        url = f"{served.url}/v1/chat/completions"
        with httpx.stream("POST", url, json=body, timeout=30) as answer:
            lines = answer.iter_lines()
            assert "0" in next(line for line in lines if '"content"' in line)
            served.process.send_signal(signal.SIGTERM)
            rest = list(lines)
        assert rest[-2] == "data: [DONE]"
        assert any("end" in line for line in rest)
        served.wait_for_exit()
        assert psutil.wait_procs(processes, timeout=10)[1] == []


def test_ctrl_c_ends_an_idle_service_within_seconds(engine: Path, tmp_path: Path) -> None:
    with serve(tmp_path, extra={"GPT_OSS_ENGINE": str(engine)}) as served:
        served.wait_until_ready()
        processes = served.processes()
        interrupted = time.monotonic()
        for process in processes:  # as a terminal does: to the whole foreground group
            process.send_signal(signal.SIGINT)
        served.wait_for_exit()
        assert psutil.wait_procs(processes, timeout=10)[1] == []
        assert time.monotonic() - interrupted < 10
        assert "Traceback" not in served.output


def test_a_host_that_is_killed_leaves_no_process(engine: Path, tmp_path: Path) -> None:
    with serve(tmp_path, extra={"GPT_OSS_ENGINE": str(engine)}) as served:
        served.wait_until_ready()
        processes = served.processes()
        served.process.kill()
        served.wait_for_exit()
        assert psutil.wait_procs(processes, timeout=15)[1] == []


class Trap:
    """A proxy that counts who wants to leave the machine and lets nobody out."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.destinations: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()

    @property
    def variables(self) -> dict[str, str]:
        """The environment that leads every HTTP client here."""
        url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        names = ("http_proxy", "https_proxy", "all_proxy")
        return {name: url for lower in names for name in (lower, lower.upper())} | {
            "no_proxy": "127.0.0.1,localhost",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def close(self) -> None:
        """Stops listening."""
        self._listener.close()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                request = connection.recv(4096).decode("latin-1")
                self.destinations.append(request.split("\r\n")[0])
                connection.sendall(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n")


@pytest.fixture
def trap() -> Iterator[Trap]:
    """A proxy that lets nobody out."""
    made = Trap()
    yield made
    made.close()


@pytest.mark.parametrize(("opted_in", "reports"), [(False, False), (True, True)])
def test_nothing_is_reported_to_anyone_unless_asked(
    engine: Path, tmp_path: Path, trap: Trap, opted_in: bool, reports: bool
) -> None:
    extra = {"GPT_OSS_ENGINE": str(engine), **trap.variables}
    if opted_in:
        extra["BENTOML_DO_NOT_TRACK"] = "False"
    with serve(tmp_path, extra=extra) as served:
        served.wait_until_ready()
        served.process.send_signal(signal.SIGTERM)
        served.wait_for_exit()
    assert bool(trap.destinations) is reports, trap.destinations


def test_the_pages_of_bentoml_are_shown_when_asked_for(engine: Path, tmp_path: Path) -> None:
    extra = {"GPT_OSS_ENGINE": str(engine)}
    with serve(tmp_path, "--arg", "bentoml_pages=true", extra=extra) as served:
        served.wait_until_ready()
        for path in ("/", "/docs.json", "/schema.json", "/healthz", "/livez", "/readyz"):
            assert httpx.get(served.url + path).status_code == 200, path
        assert httpx.get(f"{served.url}/v1/models").json()["data"][0]["id"] == MODEL
        served.engine().kill()
        assert httpx.get(f"{served.url}/readyz").status_code == 503


def test_an_engine_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "no-engine"
    with serve(tmp_path, extra={"GPT_OSS_ENGINE": str(missing)}) as served:
        served.wait_for("The engine does not start")
        assert f"{missing} is not an engine" in served.output
        assert httpx.get(f"{served.url}/livez").status_code == 503


def test_an_engine_that_is_given_up_ends_the_service_where_that_is_set(tmp_path: Path) -> None:
    extra = {
        "GPT_OSS_ENGINE": str(tmp_path / "no-engine"),
        "GPT_OSS_SUPERVISION__EXIT_WHEN_FAILED": "true",
        "GPT_OSS_LOG_LEVEL": "error",
    }
    with serve(tmp_path, extra=extra) as served:
        processes = served.processes()
        assert served.wait_for_exit() == 70
        assert psutil.wait_procs(processes, timeout=10)[1] == []
    lines = [line for line in served.output.splitlines() if "no-engine" in line]
    assert len(lines) == 1
    assert json.loads(lines[0])["level"] == "error"
    assert "Traceback" not in served.output


def test_a_misspelt_argument_is_refused(tmp_path: Path) -> None:
    with serve(tmp_path, "--arg", "engin=x") as served:
        assert served.wait_for_exit() != 0
        served.wait_for("engin\n")


def test_a_setting_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    with serve(tmp_path, extra={"GPT_OSS_LOG_LEVEL": "loud"}) as served:
        assert served.wait_for_exit() != 0
        assert "log_level" in served.wait_for("^Error: ")
        assert "Traceback" not in served.output
