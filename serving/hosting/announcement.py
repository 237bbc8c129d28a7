"""What the terminal shows of a start: signs of life, then one line to paste when it answers."""

from __future__ import annotations

import asyncio
import json
import shlex
import socket
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol, TextIO

FIRST_SIGN_SECONDS = 2.0
LONGEST_SILENCE_SECONDS = 60.0
POLL_SECONDS = 0.1
WATCH_SECONDS = 1.0


class Service(Protocol):
    """The state of a service that its terminal shows."""

    @property
    def alive(self) -> bool:
        """False once the engine will not be started again."""
        ...

    @property
    def ready(self) -> bool:
        """True while requests are answered."""
        ...


class Address(NamedTuple):
    """Where the API is reached from this machine, and what curl has to be told besides."""

    url: str
    options: str = ""


def address_of(listener: socket.socket, *, tls: bool, prefix: str) -> Address:
    """Returns the address of a listening socket, under a path prefix that may be empty."""
    bound = listener.getsockname()
    scheme = "https" if tls else "http"
    options = " -k" if tls else ""  # the certificate is for a name, and this is an address
    if listener.family == socket.AF_UNIX:
        options += f" --unix-socket {shlex.quote(bound)}"
        return Address(f"{scheme}://localhost{prefix}", options)
    host, port = bound[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    if listener.family == socket.AF_INET6:
        host = f"[{host.replace('%', '%25')}]"
    return Address(f"{scheme}://{host}:{port}{prefix}", options)


async def announce(
    service: Service,
    address: Address,
    model: Callable[[], str],
    out: TextIO,
    *,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Writes one line each time the service becomes ready, and signs of life while it is not.

    Returns when the service is dead; else runs until it is cancelled. `model` gives the name that
    a client asks for, once the service is ready.
    """
    first = True
    while await _wait_until_ready(service, out, clock, pause):
        back = f"The engine is back: {address.url}/v1"
        _write(out, _invitation(address, model()) if first else back)
        first = False
        while service.ready:
            await pause(WATCH_SECONDS)
    _write(out, "The engine does not start; the reason stands above.")


async def _wait_until_ready(
    service: Service,
    out: TextIO,
    clock: Callable[[], float],
    pause: Callable[[float], Awaitable[None]],
) -> bool:
    """Returns True when the service is ready, False when it never will be.

    Silence lasts two seconds, then each sign of life is twice as far from the last, at most a
    minute: a minute-long load fills no screen.
    """
    started = clock()
    silence_seconds = FIRST_SIGN_SECONDS
    next_sign = started + silence_seconds
    while not service.ready:
        if not service.alive:
            return False
        now = clock()
        if now >= next_sign:
            _write(out, f"The engine is loading ({now - started:.0f} s)")
            silence_seconds = min(2 * silence_seconds, LONGEST_SILENCE_SECONDS)
            next_sign = now + silence_seconds
        await pause(POLL_SECONDS)
    return True


def _invitation(address: Address, model: str) -> str:
    """Returns the closing line: where the API is, and a command that asks it something."""
    question = {"model": model, "messages": [{"role": "user", "content": "Hello!"}]}
    return (
        f"Ready: {address.url}/v1 - try: curl -s{address.options} "
        f"{shlex.quote(address.url + '/v1/chat/completions')} "
        f"-H 'content-type: application/json' -d {shlex.quote(json.dumps(question))}"
    )


def _write(out: TextIO, line: str) -> None:
    out.write(line + "\n")
    out.flush()
