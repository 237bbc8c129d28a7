"""Downloads, from a small server that speaks the part of Hugging Face's protocol that is used."""

from __future__ import annotations

import dataclasses
import io
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console

from engine_build import durable
from engine_build.download import LOCK_NAME, Download
from engine_build.failure import BuildError, ExitCode
from engine_build.occupancy import alone
from engine_build.progress import Steps
from model_assets import manifest
from model_assets.manifest import Checkpoint, CheckpointFile

REVISION = "0123456789abcdef0123456789abcdef01234567"
CONTENT = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 4096}


class Hub(ThreadingHTTPServer):
    """Serves CONTENT at one revision; `failure` is a status and an error code to answer with."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.tokens: set[str | None] = set()
        self.content = dict(CONTENT)
        self.cut_after: int | None = None
        self.breaks = True
        self.failure: tuple[int, str] | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_arguments: object) -> None:
        """The test's output is not the server's log."""

    def _answer(self, *, body: bool) -> None:
        name = self.path.rpartition("/")[2]
        if self.server.failure is not None:
            status, code = self.server.failure
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.server.tokens.add(self.headers.get("Authorization"))
        content = self.server.content[name]
        begin = int(self.headers.get("Range", "bytes=0-")[len("bytes=") :].partition("-")[0])
        if body:
            self.server.asked.append(f"{name} from {begin}")
        self.send_response(206 if begin else 200)
        self.send_header("ETag", f'"{durable.digest(content)}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("Content-Length", str(len(content) - begin))
        self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if body:
            self._send(content[begin:])

    def _send(self, content: bytes) -> None:
        if self.server.cut_after is None or len(content) <= self.server.cut_after:
            self.wfile.write(content)
            return
        self.wfile.write(content[: self.server.cut_after])
        self.close_connection = True
        if self.server.breaks:
            self.server.failure = (500, "")  # and from now on nothing works


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A server that runs."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def download(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Download:
    """A download of CONTENT into an empty directory."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    described = Checkpoint(
        name="tiny",
        repository="somewhere/tiny",
        revision=REVISION,
        revision_source="this test",
        license="Apache-2.0",
        stand_in=True,
        architecture=manifest.read("gpt-oss-20b").architecture,
        files=tuple(
            CheckpointFile(path=name, size_bytes=len(content), sha256=durable.digest(content))
            for name, content in CONTENT.items()
        ),
    )
    return Download(described, tmp_path / "room", endpoint=hub.url, sleep=lambda _seconds: None)


@pytest.fixture
def steps() -> Steps:
    """Steps that nobody watches."""
    return Steps(Console(file=io.StringIO()))


def test_every_file_of_the_revision_arrives(download: Download, steps: Steps, hub: Hub) -> None:
    room = download.fetch(steps)
    assert {name: (room / name).read_bytes() for name in CONTENT} == CONTENT
    assert [one.name for one in steps.done] == [
        "Fetching config.json (1 of 2)",
        "Fetching model.safetensors (2 of 2)",
        "Hashing config.json",
        "Hashing model.safetensors",
    ]


def test_what_is_there_is_not_fetched_again(download: Download, steps: Steps, hub: Hub) -> None:
    download.fetch(steps)
    asked, done = list(hub.asked), len(steps.done)
    download.fetch(steps)
    assert hub.asked == asked
    assert len(steps.done) == done


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        ((403, "GatedRepo"), "no access; accept the model's terms and set HF_TOKEN"),
        ((404, "RepoNotFound"), "no such repository"),
        ((404, "RevisionNotFound"), "the revision is gone"),
        ((404, "EntryNotFound"), "cannot be fetched"),
    ],
)
def test_what_the_server_refuses_is_said(
    download: Download, steps: Steps, hub: Hub, failure: tuple[int, str], says: str
) -> None:
    hub.failure = failure
    with pytest.raises(BuildError, match=says) as caught:
        download.fetch(steps)
    assert caught.value.exit_code is ExitCode.UNAVAILABLE
    assert f"config.json of somewhere/tiny at {REVISION}" in caught.value.message


def test_no_space_is_found_before_the_first_byte(
    download: Download, steps: Steps, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine_build.download.SPARE_BYTES", 1 << 60)
    with pytest.raises(BuildError, match="are to be fetched") as caught:
        download.fetch(steps)
    assert caught.value.exit_code is ExitCode.STORAGE
    assert hub.asked == []


def test_a_download_that_broke_off_goes_on_where_it_was(
    download: Download, steps: Steps, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine_build.download.PIECE_BYTES", 100_000)
    hub.cut_after = 300_000
    with pytest.raises(BuildError, match=r"model\.safetensors .* cannot be fetched") as caught:
        download.fetch(steps)
    assert caught.value.exit_code is ExitCode.UNAVAILABLE
    assert "Run the same command again" in caught.value.advice
    hub.failure, hub.cut_after = None, None
    hub.asked.clear()
    room = download.fetch(steps)
    assert hub.asked == ["model.safetensors from 300000"]
    assert (room / "model.safetensors").read_bytes() == CONTENT["model.safetensors"]


def test_other_contents_are_deleted_and_fetched_again(
    download: Download, steps: Steps, hub: Hub
) -> None:
    hub.content["model.safetensors"] = bytes(len(CONTENT["model.safetensors"]))
    with pytest.raises(BuildError, match=r"model\.safetensors: has .* and sha256") as caught:
        download.fetch(steps)
    assert caught.value.exit_code is ExitCode.DATA
    assert [file.path for file in download.missing()] == ["model.safetensors"]
    hub.content = dict(CONTENT)
    download.fetch(steps)
    assert download.missing() == []


def test_a_file_that_somebody_touched_is_hashed_again(
    download: Download, steps: Steps, hub: Hub
) -> None:
    room = download.fetch(steps)
    (room / "config.json").write_bytes(b"[]")
    with pytest.raises(BuildError, match=r"config\.json: has 2 bytes"):
        download.fetch(steps)


def test_the_token_of_the_environment_is_sent(
    download: Download, steps: Steps, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    download.fetch(steps)
    assert hub.tokens == {"Bearer hf_secret"}


def test_a_server_that_is_not_there_is_said(
    download: Download, steps: Steps, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    gone = dataclasses.replace(download, endpoint=url)
    with pytest.raises(BuildError, match=r"config\.json .*: cannot be fetched") as caught:
        gone.fetch(steps)
    assert caught.value.exit_code is ExitCode.UNAVAILABLE


def test_one_that_breaks_off_again_and_again_goes_on_while_bytes_arrive(
    download: Download, steps: Steps, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine_build.download.PIECE_BYTES", 100_000)
    hub.cut_after, hub.breaks = 100_000, False
    room = download.fetch(steps)
    assert (room / "model.safetensors").read_bytes() == CONTENT["model.safetensors"]
    begun = range(0, len(CONTENT["model.safetensors"]), 100_000)
    assert hub.asked == ["config.json from 0", *(f"model.safetensors from {at}" for at in begun)]


def test_offline_is_respected(
    download: Download, steps: Steps, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BuildError, match="HF_HUB_OFFLINE forbids"):
        download.fetch(steps)
    assert hub.asked == []


class Watched(io.StringIO):
    """Tells when something is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = threading.Event()

    def write(self, text: str, /) -> int:
        """Keeps the text."""
        if "Waiting for another download" in text:
            self.waiting.set()
        return super().write(text)


def test_two_downloads_of_one_checkpoint_take_turns(download: Download, hub: Hub) -> None:
    output = Watched()
    second = threading.Thread(target=download.fetch, args=(Steps(Console(file=output)),))
    with alone(download.room / LOCK_NAME, Steps(Console(file=io.StringIO()))):
        second.start()
        assert output.waiting.wait(timeout=30)
        assert hub.asked == []
    second.join(timeout=30)
    assert download.missing() == []
