"""How much of this machine's memory TensorRT-LLM may pin for suspended sequences.

The build has planned it a rank, for any machine; here it is held to what there is. TensorRT-LLM
has the same two bounds, but only for a size that it chooses itself (kv_cache_manager_v2.py): half
of the free memory for all ranks together, and the limit on locked memory of each process.
"""

from __future__ import annotations

import logging
import resource
from dataclasses import dataclass
from pathlib import Path

MEMORY_SHARE = 0.5
LEAST_BYTES = 64 * 2**20
"""A smaller tier holds no sequence worth the name: none is made."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class HostMemory:
    """What a process may have; None for what has no bound or is not told."""

    lockable_bytes: int | None
    free_bytes: int | None


def read(
    meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup/memory.max")
) -> HostMemory:
    """Returns what this process may have."""
    soft, _hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    bounds = [bound for bound in (_available(meminfo), _limit(cgroup)) if bound is not None]
    return HostMemory(
        lockable_bytes=None if soft == resource.RLIM_INFINITY else soft,
        free_bytes=min(bounds, default=None),
    )


def fit(planned_bytes: int, ranks: int, memory: HostMemory) -> int:
    """Returns the bytes a rank, at most those planned; says why when they are fewer."""
    lockable, free = memory.lockable_bytes, memory.free_bytes
    shared = None if free is None else int(free * MEMORY_SHARE) // ranks
    found = min(bound for bound in (planned_bytes, lockable, shared) if bound is not None)
    if found == planned_bytes:
        return found
    found = found if found >= LEAST_BYTES else 0
    why = f"{MEMORY_SHARE:.0%} of the free memory for {ranks} ranks"
    if lockable is not None and (shared is None or lockable <= shared):
        why = "the limit on locked memory; raise it, as with docker run --ulimit memlock=-1"
    _log.warning(
        "%.2f GB of host memory a rank are for suspended sequences, not %.2f GB as planned: %s. "
        "What does not fit there is computed again",
        found / 1e9,
        planned_bytes / 1e9,
        why,
    )
    return found


def _available(meminfo: Path) -> int | None:
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = (line.split() for line in lines if line.startswith("MemAvailable:"))
    return next((int(kib) * 1024 for _, kib, _ in found), None)


def _limit(cgroup: Path) -> int | None:
    try:
        text = cgroup.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None
