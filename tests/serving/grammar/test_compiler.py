"""The grammar process whose parent is killed, and the one that cannot be started."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from serving.errors import ErrorKind, ServingError
from serving.grammar.compiler import CompilerProcess
from serving.harmony.vocabulary import Vocabulary
from tests.serving.grammar.test_check import ENDLESS, GOOD, of_schema

WAIT_SECONDS = 20.0
PARENT = """
import asyncio, pathlib, sys
import psutil
from serving.grammar.compiler import CompilerProcess

async def main():
    ranks, size, good, endless = sys.argv[1:]
    compiler = CompilerProcess(pathlib.Path(ranks), int(size), 600.0, print)
    assert await compiler.verdict(good) == ""
    (worker,) = psutil.Process().children()
    before = worker.cpu_times().user
    asking = asyncio.create_task(compiler.verdict(endless))
    while worker.cpu_times().user < before + 0.1:
        await asyncio.sleep(0.01)
    print(worker.pid, flush=True)
    await asking

asyncio.run(main())
"""


def test_it_dies_with_its_parent_over_a_compilation_without_end(ranks: Path) -> None:
    grammars = (of_schema(GOOD), of_schema(ENDLESS))
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(ranks), str(Vocabulary.size), *grammars],
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        worker = os.pidfd_open(int(parent.stdout.readline()))
        try:
            parent.kill()
            assert select.select([worker], [], [], WAIT_SECONDS)[0]
        finally:
            os.close(worker)


async def test_one_that_cannot_be_started_is_told_and_is_no_fault_of_the_schema(
    ranks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(ServingError) as refused:
        await CompilerProcess(ranks, Vocabulary.size, 1.0, told.append).verdict(of_schema(GOOD))
    assert refused.value.kind is ErrorKind.INTERNAL
    assert "cannot be started" in told[0]


async def test_one_that_ends_before_it_is_ready_is_told_with_its_exit_code(
    tmp_path: Path,
) -> None:
    told: list[str] = []
    compiler = CompilerProcess(tmp_path / "missing", Vocabulary.size, 1.0, told.append)
    with pytest.raises(ServingError) as refused:
        await compiler.verdict(of_schema(GOOD))
    assert refused.value.kind is ErrorKind.INTERNAL
    assert told == ["it did not start; exit code 1"]
