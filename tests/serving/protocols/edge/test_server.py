"""How the server closes its ports: for the host's copies of the socket, too."""

from __future__ import annotations

import asyncio
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from serving.app import create_app
from serving.harmony.vocabulary import Vocabulary
from serving.settings import Http, Settings
from tests.commands import free_port
from tests.serving.fake_engine import FakeEngine
from tests.serving.protocols.edge.server import RawClient, chat_body, until, until_ready
from tests.serving.protocols.edge.wire.served import served

PROBE = b"GET /v1/models HTTP/1.1\r\nhost: test\r\n\r\n"


def connects(listener: socket.socket) -> bool:
    with socket.socket(listener.family) as client:
        try:
            client.connect(listener.getsockname())
        except ConnectionRefusedError:
            return False
        return True


@pytest.mark.parametrize("unix", [False, True])
async def test_a_port_is_closed_for_all_and_a_unix_socket_refuses_to_the_end(
    engine_directory: Path,
    vocabulary: Vocabulary,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    unix: bool,
) -> None:
    monkeypatch.setattr(Vocabulary, "load", lambda path: vocabulary)
    engine = FakeEngine()
    settings = {"log_level": "error", "drain": {"notice_seconds": 0, "running_seconds": 60}}
    app = create_app(Settings.model_validate(settings), launch=engine.launch)
    app.state.engine_directory = engine_directory
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX if unix else socket.AF_INET))
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the host's
        listener.bind(str(tmp_path / "socket") if unix else ("127.0.0.1", free_port()))
        listener.listen()
        of_the_host = stack.enter_context(listener.dup())
        address = listener.getsockname()

        async def connected() -> RawClient:
            opening = (
                asyncio.open_unix_connection(address) if unix else asyncio.open_connection(*address)
            )
            client = RawClient(*await opening)
            stack.push_async_callback(client.leave)
            return client

        async with served(app, listener, Http()) as server:
            await until_ready(app.state.service)
            busy = await connected()
            await busy.post(chat_body())
            stream = await engine.next_stream()
            server.should_exit = True
            await until(app.state.drain.refusing.is_set)
            if unix:
                late = await connected()
                late.writer.write(PROBE)
                assert (await late.response())[0] == 503
            else:
                await until(lambda: not connects(of_the_host))
                of_the_host.listen()  # as a next worker does, where only this one leaves
                assert connects(of_the_host)
            stream.give([1, 2, 3], finish="stop")
            assert (await busy.response())[0] == 200
