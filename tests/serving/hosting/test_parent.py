"""A process leaves once, when its parent has changed, and not before."""

from __future__ import annotations

import subprocess
import sys

from serving.hosting.parent import GIVEN_UP, end_with_engine, leave_with_parent


async def test_it_leaves_when_the_parent_is_another_and_not_before() -> None:
    parents = iter([41, 41, 41, 1])
    happened: list[str] = []

    async def pause(_seconds: float) -> None:
        happened.append("pause")

    await leave_with_parent(
        parent=lambda: next(parents), leave=lambda: happened.append("leave"), pause=pause
    )
    assert happened == ["pause", "pause", "leave"]


async def test_the_end_is_asked_for_when_the_engine_is_given_up_and_not_before() -> None:
    happened: list[str] = []

    class Service:
        @property
        def alive(self) -> bool:
            return len(happened) < 3

    async def pause(_seconds: float) -> None:
        happened.append("pause")

    await end_with_engine(Service(), ask=lambda: happened.append("ask"), pause=pause)
    assert happened == ["pause", "pause", "pause", "ask"]


def test_a_host_that_is_asked_ends_in_order_and_says_why() -> None:
    code = (
        "import os, signal, sys\n"
        "from serving.hosting.parent import end_for_worker\n"
        "end_for_worker()\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit('in order'))\n"
        "if sys.argv[1:]:\n"
        "    os.kill(os.getpid(), signal.SIGUSR1)\n"
    )
    asked, left = (
        subprocess.run([sys.executable, "-c", code, *argument], capture_output=True, check=False)
        for argument in (["asked"], [])
    )
    assert (asked.returncode, asked.stderr) == (GIVEN_UP, b"in order\n")
    assert left.returncode == 0
