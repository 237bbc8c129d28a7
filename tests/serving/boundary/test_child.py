from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from serving.boundary.child import ENVIRONMENT, Child
from serving.boundary.link import Link

WAIT_SECONDS = 20.0

# Stands in for the interpreter: shows what it was given, has a child of its own, and stays.
PROGRAM = """#!/bin/sh
echo "$@" > "$OUT/arguments"
env > "$OUT/environment"
sleep 600 &
echo $! > "$OUT/child"
mv "$OUT/child" "$OUT/ready"
wait
"""


class Silent(Link[str, str]):
    """A link over which nothing comes."""

    def __init__(self) -> None:
        super().__init__(str)

    def take(self, message: str) -> None:
        raise AssertionError(message)

    def lose(self) -> None:
        pass


async def start(directory: Path, environment: dict[str, str]) -> Child[Silent]:
    child = Child(
        Silent(),
        "some.module",
        *("--engine", str(directory)),
        environment=ENVIRONMENT | os.environ | environment,
    )
    assert not await child.loaded(0.0)
    return child


@pytest.fixture
async def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Child[Silent]]:
    program = tmp_path / "program"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    process = await start(tmp_path / "engine", {"OUT": str(tmp_path), "EXTRA": "1"})
    yield process
    process.link.close()
    await process.end()


async def read(path: Path, process: Child[Silent]) -> str:
    """Returns a file that the program writes, once it is there."""
    while (content := content_of(path)) is None:
        assert await process.wait(0.005) is None
    return content


def content_of(path: Path) -> str | None:
    """Returns what is in a file, or None without one."""
    return path.read_text() if path.exists() else None


async def test_it_is_told_its_options_and_its_socket(
    process: Child[Silent], tmp_path: Path
) -> None:
    await read(tmp_path / "ready", process)
    arguments = (tmp_path / "arguments").read_text().split()
    assert arguments[:3] == ["-P", "-m", "some.module"]
    assert arguments[3::2] == ["--fd", "--engine"]
    assert arguments[6] == str(tmp_path / "engine")


async def test_it_finds_this_very_package_and_uses_little_memory(
    process: Child[Silent], tmp_path: Path
) -> None:
    await read(tmp_path / "ready", process)
    lines = (tmp_path / "environment").read_text().splitlines()
    environment = dict(line.split("=", 1) for line in lines if "=" in line)
    root, elsewhere = environment["PYTHONPATH"].split(os.pathsep)
    assert (Path(root) / "serving" / "boundary" / "child.py").exists()
    assert elsewhere == "/elsewhere"
    assert environment["EXTRA"] == "1"
    assert ENVIRONMENT.items() <= environment.items() | dict(os.environ).items()


async def test_it_leads_a_session_of_its_own(process: Child[Silent]) -> None:
    assert os.getsid(process.pid) == process.pid != os.getsid(0)


async def test_what_it_started_dies_with_it(process: Child[Silent], tmp_path: Path) -> None:
    child = os.pidfd_open(int(await read(tmp_path / "ready", process)))
    try:
        process.kill()
        assert await process.wait(WAIT_SECONDS) == -signal.SIGKILL
        ended, _, _ = select.select([child], [], [], WAIT_SECONDS)
        assert ended
    finally:
        os.close(child)


DAEMON = """
import os, pathlib, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        out = pathlib.Path(os.environ["OUT"])
        (out / "daemon").write_text(str(os.getpid()))
        (out / "daemon").rename(out / "ready")
        time.sleep(600)
    os._exit(0)
os.wait()
time.sleep(600)
"""


async def test_what_has_left_its_group_and_session_dies_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "daemon.py").write_text(DAEMON)
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} "$OUT/daemon.py"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    process = await start(tmp_path, {"OUT": str(tmp_path)})
    worker = int(await read(tmp_path / "ready", process))
    assert os.getsid(worker) != process.pid
    descriptor = os.pidfd_open(worker)
    try:
        process.kill()
        assert await process.wait(WAIT_SECONDS) == -signal.SIGKILL
        # It is gone when the end is told: what is started next finds its GPU free.
        assert select.select([descriptor], [], [], 0)[0]
    finally:
        os.close(descriptor)
        process.link.close()


async def test_another_engine_process_is_left_alone(process: Child[Silent], tmp_path: Path) -> None:
    await read(tmp_path / "ready", process)
    other = await start(tmp_path / "engine", {"OUT": str(tmp_path), "EXTRA": "2"})
    other.kill()
    assert await other.wait(WAIT_SECONDS) == -signal.SIGKILL
    other.link.close()
    assert await process.wait(0.01) is None


async def test_wait_does_not_wait_longer_than_told(process: Child[Silent]) -> None:
    assert await process.wait(0.01) is None


async def test_kill_after_the_end_is_harmless(process: Child[Silent]) -> None:
    process.kill()
    assert await process.wait(WAIT_SECONDS) == -signal.SIGKILL
    process.kill()


async def test_the_end_is_told_however_often_and_early_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    for _ in range(20):
        process = await start(tmp_path, {})
        while not process.exited.done():
            process.kill()
            await asyncio.sleep(0)
        process.link.close()
        assert process.exited.result() in (3, -signal.SIGKILL)


async def test_kill_is_harmless_when_something_else_has_collected_the_process(
    process: Child[Silent], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.kill

    def collected(process_id: int, number: int) -> None:
        """Stands in for a kill that comes when the id is nobody's any more."""
        real(process_id, number)
        raise ProcessLookupError

    monkeypatch.setattr(os, "kill", collected)
    process.kill()
    assert await process.wait(WAIT_SECONDS) is not None


@pytest.mark.parametrize(
    ("program", "told"),
    [("exit 3", "it left; exit code 3"), ("sleep 600", "it left; exit code -9")],
)
async def test_its_loss_is_one_line_with_the_cause_and_the_exit_code(
    program: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "program").write_text(f"#!/bin/sh\n{program}\n")
    (tmp_path / "program").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "program"))
    process = await start(tmp_path, {})
    if "exit" in program:
        assert await process.wait(WAIT_SECONDS) == 3
    assert await process.give_up("it left") == told
