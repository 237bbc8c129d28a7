"""The terminal of a start: signs of life, one closing line, and a word when the engine is lost."""

from __future__ import annotations

import asyncio
import io
import itertools
import socket
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from serving.hosting.announcement import Address, address_of, announce


@dataclass
class Start:
    """A service whose state changes at set times of a clock that only `pause` moves."""

    changes: list[tuple[float, bool, bool]]
    """(second, alive, ready), ascending."""
    until: float
    now: float = 0.0
    out: io.StringIO = field(default_factory=io.StringIO)

    @property
    def alive(self) -> bool:
        return self._at_now()[1]

    @property
    def ready(self) -> bool:
        return self._at_now()[2]

    def _at_now(self) -> tuple[float, bool, bool]:
        return [change for change in self.changes if change[0] <= self.now][-1]

    async def pause(self, seconds: float) -> None:
        self.now += seconds
        if self.now >= self.until:
            raise asyncio.CancelledError

    async def lines(self) -> list[str]:
        try:
            await announce(
                self,
                Address("http://host:1"),
                lambda: "m",
                self.out,
                clock=lambda: self.now,
                pause=self.pause,
            )
        except asyncio.CancelledError:
            self.out.write("(cancelled)\n")
        return self.out.getvalue().splitlines()


async def test_a_quick_start_is_one_line() -> None:
    lines = await Start([(0, True, False), (1.5, True, True)], until=100).lines()
    assert len(lines) == 2
    assert lines[0].startswith("Ready: http://host:1/v1 - try: curl ")
    assert '"model": "m"' in lines[0]
    assert lines[1] == "(cancelled)"


async def test_a_slow_start_gives_signs_of_life_ever_farther_apart() -> None:
    lines = await Start([(0, True, False), (300, True, True)], until=310).lines()
    seconds = [int(line.split("(")[1].split(" ")[0]) for line in lines[:-2]]
    assert seconds[:5] == [2, 6, 14, 30, 62]
    assert all(later - earlier <= 61 for earlier, later in itertools.pairwise(seconds))


async def test_an_engine_that_is_lost_and_comes_back_gets_one_more_line() -> None:
    changes = [(0, True, True), (5, True, False), (6, True, True)]
    lines = await Start([(float(at), alive, ready) for at, alive, ready in changes], 10).lines()
    assert [line.split(":")[0] for line in lines] == ["Ready", "The engine is back", "(cancelled)"]


async def test_an_engine_that_never_starts_is_said_to() -> None:
    lines = await Start([(0, True, False), (1, False, False)], until=10).lines()
    assert lines == ["The engine does not start; the reason stands above."]


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.2", "127.0.0.2"),
        ("0.0.0.0", "127.0.0.1"),  # noqa: S104
        ("::1", "[::1]"),
        ("::", "[::1]"),
    ],
)
def test_an_address_is_one_to_connect_to(host: str, shown: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        port = listener.getsockname()[1]
        assert address_of(listener, tls=False, prefix="") == (f"http://{shown}:{port}", "")
        secure = address_of(listener, tls=True, prefix="/llm")
        assert secure == (f"https://{shown}:{port}/llm", " -k")


def test_the_address_of_a_unix_socket_names_its_path(tmp_path: Path) -> None:
    path = str(tmp_path / "a b.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        address = address_of(listener, tls=False, prefix="/llm")
    assert address == ("http://localhost/llm", f" --unix-socket '{path}'")
