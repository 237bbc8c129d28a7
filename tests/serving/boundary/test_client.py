from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import msgspec
import pytest

from serving.boundary import client as client_module
from serving.boundary.client import EngineConnection, Stream
from serving.boundary.framing import FrameReader, frame
from serving.boundary.messages import (
    Abort,
    Fatal,
    FromEngine,
    Generate,
    GetStats,
    Output,
    Ready,
    Shutdown,
    Stats,
    Step,
    ToEngine,
)
from serving.boundary.sampling import Sampling
from serving.errors import ErrorKind, ServingError

READY = Ready("replay", "1", 64, 8192, 131_072, 32, 4096, "cpu", 0.5)
ONE = Sampling(max_tokens=10)


class Engine:
    """The other end, in the hand of the test."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._reader = FrameReader()
        self._read: list[ToEngine] = []

    async def send(self, *messages: FromEngine) -> None:
        await self.send_bytes(b"".join(frame(msgspec.msgpack.encode(one)) for one in messages))

    async def send_bytes(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._end, data)

    async def read(self) -> ToEngine:
        while not self._read:
            data = await asyncio.get_running_loop().sock_recv(self._end, 65536)
            assert data, "the client has closed the connection"
            self._read += [
                msgspec.msgpack.decode(payload, type=ToEngine)
                for payload in self._reader.feed(data)
            ]
        return self._read.pop(0)

    def leave(self) -> None:
        self._end.close()


class Pair:
    """A connection and its other end. `ends` counts calls of `on_end`."""

    def __init__(self) -> None:
        self.ends = 0
        self.on_end_fails = False
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        self._ours = ours
        self.engine = Engine(theirs)
        self.connection: EngineConnection

    async def connect(self) -> None:
        loop = asyncio.get_running_loop()
        _, self.connection = await loop.create_unix_connection(
            lambda: EngineConnection(self._on_end), sock=self._ours
        )

    def _on_end(self) -> None:
        self.ends += 1
        if self.on_end_fails:
            raise RuntimeError("a listener failed")

    async def settle(self) -> None:
        """Returns when the client has taken all that was sent before."""
        asked = asyncio.create_task(self.connection.stats())
        while not isinstance(await self.engine.read(), GetStats):
            pass
        await self.engine.send(Stats())
        await asked


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    pair = Pair()
    await pair.connect()
    yield pair
    pair.connection.close()
    pair.engine.leave()
    await asyncio.sleep(0)


def tokens(arrived: list[tuple[int, Output]]) -> list[tuple[int, list[int]]]:
    return [(choice, output.tokens) for choice, output in arrived]


async def started(pair: Pair, *samplings: Sampling) -> tuple[Stream, list[Generate]]:
    stream = pair.connection.open([1, 2], list(samplings))
    requests = [await pair.engine.read() for _ in samplings]
    return stream, [one for one in requests if isinstance(one, Generate)]


async def test_each_choice_is_a_sequence_over_the_same_prompt(pair: Pair) -> None:
    second = Sampling(max_tokens=3, seed=8)
    stream = pair.connection.open([1, 2], [ONE, second], priority=0.9, cache_salt="salt")
    first = await pair.engine.read()
    assert first == Generate(1, [1, 2], ONE, 0.9, "salt")
    assert await pair.engine.read() == Generate(2, [1, 2], second, 0.9, "salt")
    await pair.engine.send(Step([Output(2, [7]), Output(1, [8])]))
    assert tokens(await stream.receive()) == [(1, [7]), (0, [8])]


async def test_a_slow_reader_gets_everything_at_once_and_in_order(pair: Pair) -> None:
    stream, [request] = await started(pair, ONE)
    await pair.engine.send(*(Step([Output(request.id, [token])]) for token in range(5)))
    await pair.settle()
    assert tokens(await stream.receive()) == [(0, [token]) for token in range(5)]


async def test_after_the_last_finish_there_is_nothing_more(pair: Pair) -> None:
    stream, requests = await started(pair, ONE, ONE)
    await pair.engine.send(Step([Output(requests[0].id, [1], "stop")]))
    assert tokens(await stream.receive()) == [(0, [1])]
    await pair.engine.send(Step([Output(requests[1].id, [], "length")]))
    assert tokens(await stream.receive()) == [(1, [])]
    assert await stream.receive() == []


async def test_a_finished_id_is_dead(pair: Pair) -> None:
    stream, requests = await started(pair, ONE, ONE)
    dead = requests[0].id
    await pair.engine.send(Step([Output(dead, [1], "stop")]), Step([Output(dead, [2])]))
    await pair.settle()
    assert tokens(await stream.receive()) == [(0, [1])]
    stream.close()


async def test_a_cancelled_wait_loses_nothing(pair: Pair) -> None:
    stream, [request] = await started(pair, ONE)
    waiting = asyncio.create_task(stream.receive())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait({waiting})
    await pair.engine.send(Step([Output(request.id, [4])]))
    assert tokens(await stream.receive()) == [(0, [4])]


async def test_close_aborts_what_is_unfinished_and_nothing_else(pair: Pair) -> None:
    stream, requests = await started(pair, ONE, ONE)
    await pair.engine.send(Step([Output(requests[0].id, [1], "stop")]))
    await stream.receive()
    stream.close()
    stream.close()
    assert await pair.engine.read() == Abort(requests[1].id)
    await pair.engine.send(Step([Output(requests[1].id, [9])]))
    await pair.settle()
    assert await stream.receive() == []


async def test_close_of_a_finished_stream_sends_nothing(pair: Pair) -> None:
    stream, [request] = await started(pair, ONE)
    await pair.engine.send(Step([Output(request.id, [1], "stop")]))
    await stream.receive()
    stream.close()
    pair.connection.shutdown()
    assert await pair.engine.read() == Shutdown()


async def test_close_wakes_a_reader(pair: Pair) -> None:
    stream, _ = await started(pair, ONE)
    waiting = asyncio.create_task(stream.receive())
    await asyncio.sleep(0)
    stream.close()
    assert await waiting == []


async def test_what_had_arrived_is_read_before_the_loss_is_told(pair: Pair) -> None:
    stream, [request] = await started(pair, ONE)
    idle, _ = await started(pair, ONE)
    await pair.engine.send(Step([Output(request.id, [3])]))
    pair.engine.leave()
    assert await pair.connection.closed == ""
    assert tokens(await stream.receive()) == [(0, [3])]
    for lost in (stream, idle, stream):
        with pytest.raises(ServingError) as raised:
            await lost.receive()
        assert raised.value.kind is ErrorKind.ENGINE_UNAVAILABLE
        assert raised.value.retry_after_seconds is not None
    assert pair.ends == 1
    idle.close()


async def test_a_stream_that_had_finished_does_not_notice_the_loss(pair: Pair) -> None:
    stream, [request] = await started(pair, ONE)
    await pair.engine.send(Step([Output(request.id, [3], "stop")]))
    pair.engine.leave()
    await pair.connection.closed
    assert tokens(await stream.receive()) == [(0, [3])]
    assert await stream.receive() == []


async def test_nothing_can_be_opened_or_asked_after_the_end(pair: Pair) -> None:
    asked = asyncio.create_task(pair.connection.stats())
    await pair.engine.read()
    pair.engine.leave()
    with pytest.raises(ServingError):
        await asked
    with pytest.raises(ServingError):
        pair.connection.open([1], [ONE])
    with pytest.raises(ServingError):
        await pair.connection.stats()
    assert not pair.connection.is_open


async def test_answers_go_to_their_questions(pair: Pair) -> None:
    first = asyncio.create_task(pair.connection.stats())
    second = asyncio.create_task(pair.connection.stats())
    await pair.engine.read()
    await pair.engine.read()
    first.cancel()
    await asyncio.wait({first})
    await pair.engine.send(Stats(running=1), Stats(running=2))
    assert (await second).running == 2
    assert pair.connection.last_stats == Stats(running=2)


async def test_one_unanswered_ping_is_enough(pair: Pair) -> None:
    pair.connection.ping()
    pair.connection.ping()
    pair.connection.shutdown()
    assert await pair.engine.read() == GetStats()
    assert await pair.engine.read() == Shutdown()


async def test_ready_and_last_words_are_kept(pair: Pair) -> None:
    await pair.engine.send(READY, Fatal(70, "over"))
    assert await pair.connection.ready == READY
    pair.engine.leave()
    await pair.connection.closed
    assert pair.connection.fatal == Fatal(70, "over")


@pytest.mark.parametrize(
    "noise",
    [b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", frame(b"\xc1"), frame(b"\x81\xa4type\xa3odd")],
    ids=["empty frame", "huge frame", "no msgpack", "unknown message"],
)
async def test_noise_ends_the_connection_with_a_reason(pair: Pair, noise: bytes) -> None:
    stream, _ = await started(pair, ONE)
    await pair.engine.send_bytes(noise)
    assert "unreadable message" in await pair.connection.closed
    with pytest.raises(ServingError):
        await stream.receive()


async def test_an_engine_that_stopped_reading_gets_no_more_requests(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "MAX_UNSENT_BYTES", 1000)
    pair.connection.open(list(range(1_000_000)), [ONE])
    with pytest.raises(ServingError) as raised:
        pair.connection.open([1], [ONE])
    assert raised.value.kind is ErrorKind.OVERLOADED


async def test_a_listener_that_fails_does_not_keep_the_loss_from_the_streams(pair: Pair) -> None:
    stream, _ = await started(pair, ONE)
    pair.on_end_fails = True
    with pytest.raises(RuntimeError, match="a listener failed"):
        pair.connection.close()
    with pytest.raises(ServingError):
        await stream.receive()
