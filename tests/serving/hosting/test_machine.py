"""Processors and memory under the limits of control groups."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.hosting import machine

MEMINFO = "MemTotal:       16000000 kB\nMemFree: 1 kB\nMemAvailable:    9000000 kB\n"


def machine_with(root: Path, files: dict[str, str], groups: str) -> Path:
    """Returns a root whose /proc and /sys have these contents."""
    for path, content in {
        "proc/self/cgroup": groups,
        "proc/meminfo": MEMINFO,
        **{f"sys/fs/cgroup/{path}": content for path, content in files.items()},
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(content)
    return root


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 64 processors."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)


V1 = "4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n0::/\n"


@pytest.mark.usefixtures("many")
@pytest.mark.parametrize(
    ("files", "groups", "expected"),
    [
        ({}, "0::/\n", 64),
        ({"cpu.max": "200000 100000\n"}, "0::/\n", 2),
        ({"cpu.max": "max 100000\n"}, "0::/\n", 64),
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "350000 100000"}, "0::/a/b\n", 3),
        ({"cpu.max": "50000 100000"}, "0::/\n", 1),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, V1, 4),
        (
            {
                "cpu/docker/abc/cpu.cfs_quota_us": "250000",
                "cpu/docker/abc/cpu.cfs_period_us": "50000",
                "cpu/cpu.cfs_quota_us": "-1",
                "cpu/cpu.cfs_period_us": "100000",
            },
            V1,
            5,
        ),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, V1, 64),
        ({"cpu.max": "9900000 100000"}, "0::/\n", 64),
        ({"cpu.max": "nonsense"}, "nonsense\n0::/gone\n", 64),
    ],
)
def test_a_quota_decides_the_processors(
    tmp_path: Path, files: dict[str, str], groups: str, expected: int
) -> None:
    assert machine.processors(machine_with(tmp_path, files, groups)) == expected


def test_the_processors_that_a_process_may_run_on_decide() -> None:
    one = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, {{{one}}});"
        "from serving.hosting import machine; print(machine.processors())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "1"


@pytest.mark.parametrize(
    ("files", "groups", "total", "available"),
    [
        ({}, "0::/\n", 16_384_000_000, 9_216_000_000),
        ({"memory.max": "8000000000"}, "0::/\n", 8_000_000_000, 8_000_000_000),
        ({"a/memory.max": "max", "memory.max": "7000"}, "0::/a\n", 7000, 7000),
        ({"memory/memory.limit_in_bytes": "5000"}, V1, 5000, 5000),
        (
            {"memory/docker/abc/memory.limit_in_bytes": "9223372036854771712"},
            V1,
            16_384_000_000,
            9_216_000_000,
        ),
    ],
)
def test_a_limit_decides_the_memory(
    tmp_path: Path, files: dict[str, str], groups: str, total: int, available: int
) -> None:
    root = machine_with(tmp_path, files, groups)
    assert (machine.memory_bytes(root), machine.available_bytes(root)) == (total, available)


def test_this_machine_has_processors_and_memory() -> None:
    assert 1 <= machine.processors() <= (os.cpu_count() or 1)
    assert 0 < machine.available_bytes() <= machine.memory_bytes()
