"""What comes of one engine process, wherever it has gone, found by a mark in its environment.

A process group holds only those who stay in it. Open MPI starts workers through a daemon of its own
that leaves its group and session, so a killed engine process could leave ranks behind that hold its
GPUs. They inherit its environment all the same, and Linux shows each process's as it was given.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Collection, Iterator
from pathlib import Path

MARK = "GPT_OSS_ENGINE_FAMILY"
"""The variable that holds an engine process's own mark."""

_PROCESSES = Path("/proc")
_PASSES = 5
"""Whoever is killed may have started another just before; who is left after these is let be."""
_END_SECONDS = 2.0


def end(mark: str, spare: Collection[int] = ()) -> None:
    """Kills every process with this mark but those in `spare`, and waits for their ends.

    Does nothing where processes cannot be looked at, as on another system than Linux.
    """
    for _ in range(_PASSES if mark else 0):
        killed = list(_kill(mark, spare))
        if not killed:
            return
        try:
            _wait(killed)
        finally:
            for descriptor in killed:
                os.close(descriptor)


def members(mark: str) -> Iterator[int]:
    """Yields the ids of the living processes with this mark that this one may look at."""
    wanted = f"{MARK}={mark}".encode()
    for directory in _PROCESSES.glob("[1-9]*"):
        if wanted in _environment(directory):
            yield int(directory.name)


def _environment(directory: Path) -> list[bytes]:
    try:
        return (directory / "environ").read_bytes().split(b"\0")
    except OSError:  # It has ended, or is somebody else's.
        return []


def _kill(mark: str, spare: Collection[int]) -> Iterator[int]:
    """Kills each, and yields a descriptor that becomes readable with its end."""
    wanted = f"{MARK}={mark}".encode()
    for process_id in members(mark):
        if process_id in spare:
            continue
        try:
            descriptor = os.pidfd_open(process_id)
        except OSError:
            continue
        # The descriptor is of whoever has the id now: look once more before it is used.
        if wanted in _environment(_PROCESSES / str(process_id)):
            try:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            except OSError:
                os.close(descriptor)
            else:
                yield descriptor
        else:
            os.close(descriptor)


def _wait(descriptors: Collection[int]) -> None:
    poller = select.poll()
    waiting = set(descriptors)
    for descriptor in waiting:
        poller.register(descriptor, select.POLLIN)
    while waiting and (ended := poller.poll(_END_SECONDS * 1000)):
        for descriptor, _ in ended:
            poller.unregister(descriptor)
            waiting.discard(descriptor)
