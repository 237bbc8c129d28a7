"""What of this machine the process may use: processors and memory, by its own limits and those of
its control groups (version 1 and 2), and its user's directories.

`os.cpu_count()` says how many processors the machine has. A container with a quota of two on a
machine of 64 that ran 64 threads would stand still most of the time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("proc/self/cgroup")
MOUNT = Path("sys/fs/cgroup")
MEMORY = Path("proc/meminfo")
ROOT = Path("/")


def processors(root: Path = ROOT) -> int:
    """Returns how many processors this process can keep busy, at least 1: those that it may run on,
    or fewer where a quota gives it the time of fewer. `root` is where /proc and /sys are."""
    if hasattr(os, "sched_getaffinity"):
        allowed = len(os.sched_getaffinity(0))
    else:
        allowed = os.cpu_count() or 1
    return max(1, min([allowed, *(int(quota) for quota in _quotas(root))]))


def memory_bytes(root: Path = ROOT) -> int:
    """Returns how much memory this process and its children may take: the machine's, or the least
    of its groups' limits. Raises OSError where the machine does not tell."""
    total = _meminfo(root)["MemTotal"]
    limits = [
        *_numbers(root, "", "memory.max"),
        *_numbers(root, "memory", "memory.limit_in_bytes"),
    ]
    return min([total, *limits])


def available_bytes(root: Path = ROOT) -> int:
    """Returns how much of `memory_bytes` is not taken by others. Raises OSError."""
    return min(_meminfo(root)["MemAvailable"], memory_bytes(root))


def user_directory(variable: str, below_home: str) -> Path:
    """Returns what an XDG variable names, else its default below the user's home.

    A user without a name and without HOME, as in many containers, has `/` for a home.
    """
    if named := os.environ.get(variable):
        return Path(os.path.expanduser(named))
    home = os.path.expanduser("~")
    return Path("/" if home == "~" else home) / below_home


def _quotas(root: Path) -> Iterator[float]:
    """Yields the processors' worth of time that each group allows."""
    for directory in _directories(root, ""):
        quota, _, period = _read(directory / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit():
            yield int(quota) / int(period)
    for directory in _directories(root, "cpu"):
        quota, period = (_read(directory / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        if quota.isdigit() and period.isdigit():  # a quota of -1 is none
            yield int(quota) / int(period)


def _numbers(root: Path, controller: str, name: str) -> Iterator[int]:
    """Yields what a file of this process's groups says where it is a number: `max` is none."""
    for directory in _directories(root, controller):
        if (text := _read(directory / name)).isdigit():
            yield int(text)


def _directories(root: Path, controller: str) -> Iterator[Path]:
    """Yields this process's group and those above it, for a controller of version 1, or for
    version 2 where that is empty.

    In a container the path is often that of the host, which is not mounted there; the mount itself
    is the container's group then, and the last that is yielded.
    """
    for line in _read(root / GROUPS).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controller not in controllers.split(","):
            continue
        mount = root / MOUNT / controller
        group = mount / path.strip("/")
        while True:
            yield group
            if group == mount:
                break
            group = group.parent


def _meminfo(root: Path) -> dict[str, int]:
    """Returns the lines of /proc/meminfo, in bytes."""
    found = {}
    for line in (root / MEMORY).read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        found[name] = int(value.split()[0]) * 1024
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
