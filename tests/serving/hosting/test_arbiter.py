"""The socket that the arbiter makes: its mode, and what may be where it is to be."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import click
import pytest

from serving.hosting.arbiter import ApiSocket


def listening(path: Path) -> ApiSocket:
    """Returns a socket that listens at `path`."""
    made = ApiSocket(name="api", path=str(path), umask=0o117)
    try:
        made.bind_and_listen()
    except BaseException:
        socket.socket.close(made)
        raise
    return made


def test_it_has_its_mode_and_goes_with_its_end(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    made = listening(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    made.close()
    assert not path.exists()


def test_what_a_dead_service_has_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    listening(path).close()


def test_a_living_service_keeps_its_socket(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    first = listening(path)
    with pytest.raises(click.ClickException, match="another service"):
        listening(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    first.close()


def test_a_file_is_no_socket_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("mine")
    with pytest.raises(click.ClickException, match="not a socket"):
        listening(path)
    assert path.read_text() == "mine"


def test_a_missing_directory_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match="No such file"):
        listening(tmp_path / "none" / "api.sock")


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        made = ApiSocket(name="api", host="127.0.0.1", port=port)
        with made, pytest.raises(click.ClickException, match=f"127.0.0.1:{port}: Address already"):
            made.bind_and_listen()
