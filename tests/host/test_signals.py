"""What signals do to a running service."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from serving.boundary import family
from tests.commands import Served, serve
from tests.host.questions import ask, body

SOON_SECONDS = 30.0


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


def test_ctrl_c_gives_no_notice(engine: Path, tmp_path: Path) -> None:
    extra = {"GPT_OSS_ENGINE": str(engine), "GPT_OSS_DRAIN__NOTICE_SECONDS": "600"}
    with serve(tmp_path, extra=extra) as served:
        served.wait_until_ready()
        processes = served.processes()
        served.process.send_signal(signal.SIGINT)  # the worker is in a session of its own
        served.wait_for_exit(SOON_SECONDS)
        assert psutil.wait_procs(processes, timeout=SOON_SECONDS)[1] == []


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_everything_at_once(
    engine: Path, tmp_path: Path, number: signal.Signals, stopped: bool
) -> None:
    with serve(tmp_path, extra={"GPT_OSS_ENGINE": str(engine)}) as served:
        served.wait_until_ready()
        processes = served.processes()
        mark = {family.MARK: served.engine().environ()[family.MARK]}
        rank = subprocess.Popen(["sleep", "600"], env=os.environ | mark, start_new_session=True)
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
        assert rank.wait(SOON_SECONDS) == -signal.SIGKILL  # of the engine's, wherever it has gone
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
