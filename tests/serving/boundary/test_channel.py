from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import msgspec
import pytest

from serving.boundary import channel
from serving.boundary.channel import Inbox, Outbox
from serving.boundary.framing import frame
from serving.boundary.messages import (
    Abort,
    FromEngine,
    GetStats,
    Output,
    Shutdown,
    Stats,
    Step,
    ToEngine,
)
from tests.serving.boundary.parent import Parent

TIMEOUT_SECONDS = 20.0
BIG = Step([Output(1, [200_000] * 100_000)])


class Left:
    """Remembers why the other side left."""

    def __init__(self) -> None:
        self.why: str | None = None
        self.event = threading.Event()

    def __call__(self, why: str) -> None:
        self.why = why
        self.event.set()

    def wait(self) -> str | None:
        assert self.event.wait(TIMEOUT_SECONDS)
        return self.why


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


Ends = tuple[socket.socket, socket.socket]


def send(end: socket.socket, *messages: ToEngine) -> None:
    end.sendall(b"".join(frame(msgspec.msgpack.encode(one)) for one in messages))


def take(inbox: Inbox, count: int) -> list[ToEngine]:
    """Returns the next messages, waiting for them."""
    found: list[ToEngine] = []
    while len(found) < count:
        found += inbox.drain(wait=True)
    return found


def test_messages_come_out_in_order(ends: Ends) -> None:
    inbox = Inbox(ends[1], Left())
    assert inbox.drain(wait=False) == []
    inbox.start()
    send(ends[0], Abort(1), GetStats(), Abort(2))
    assert take(inbox, 3) == [Abort(1), GetStats(), Abort(2)]
    ends[0].shutdown(socket.SHUT_RDWR)


def test_the_end_is_told_once_and_after_what_came_before(ends: Ends) -> None:
    left = Left()
    inbox = Inbox(ends[1], left)
    send(ends[0], Abort(1))
    ends[0].shutdown(socket.SHUT_RDWR)
    inbox.start()
    assert left.wait() == ""
    assert inbox.drain(wait=False) == [Abort(1)]


@pytest.mark.parametrize(
    "noise", [b"\xff\xff\xff\xff", frame(b"\xc1"), frame(msgspec.msgpack.encode({"type": "?"}))]
)
def test_noise_is_told_with_a_reason(ends: Ends, noise: bytes) -> None:
    left = Left()
    Inbox(ends[1], left).start()
    ends[0].sendall(noise)
    assert "Error" in (left.wait() or "")


def test_a_message_of_this_process_wakes_the_loop(ends: Ends) -> None:
    inbox = Inbox(ends[1], Left())
    inbox.put(Shutdown())
    assert inbox.drain(wait=True) == [Shutdown()]


def test_sending_does_not_wait_for_a_reader(ends: Ends) -> None:
    outbox = Outbox(ends[1])
    sent: list[FromEngine] = [BIG, Stats(running=1), BIG, Stats(running=2)]
    for message in sent:
        outbox.send(message)
    parent = Parent(ends[0])
    received: list[FromEngine | None] = []
    reader = threading.Thread(target=lambda: received.extend(parent.read() for _ in sent))
    reader.start()
    outbox.flush()
    reader.join(TIMEOUT_SECONDS)
    assert received == sent


def test_sending_waits_once_too_much_is_unread(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "MAX_UNSENT_BYTES", 1000)
    outbox = Outbox(ends[1])
    done = threading.Event()

    def send_big() -> None:
        outbox.send(BIG)
        done.set()

    sender = threading.Thread(target=send_big)
    sender.start()
    assert not done.wait(0.2)
    assert Parent(ends[0]).read() == BIG
    assert done.wait(TIMEOUT_SECONDS)
    sender.join()


def test_sending_to_nobody_is_an_error(ends: Ends) -> None:
    ends[0].close()
    with pytest.raises(OSError, match="Broken pipe"):
        Outbox(ends[1]).send(Stats())
