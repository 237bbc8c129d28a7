"""Downloads, from a small server that speaks the part of Hugging Face's protocol that is used."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from engine_build import durable
from engine_build.download import Download
from engine_build.failure import BuildError, ExitCode
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
        content = CONTENT[name]
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
            self.wfile.write(content[begin:])


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
    return Download(described, tmp_path / "room", endpoint=hub.url)


def silent(_line: str) -> None:
    """A note that nobody reads."""


def test_every_file_of_the_revision_arrives(download: Download, hub: Hub) -> None:
    told: list[str] = []
    room = download.fetch(told.append)
    assert {name: (room / name).read_bytes() for name in CONTENT} == CONTENT
    assert told == ["Fetching config.json (1 of 2)", "Fetching model.safetensors (2 of 2)"]


def test_what_is_there_is_not_fetched_again(download: Download, hub: Hub) -> None:
    download.fetch(silent)
    asked = list(hub.asked)
    told: list[str] = []
    download.fetch(told.append)
    assert hub.asked == asked
    assert told == []


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
    download: Download, hub: Hub, failure: tuple[int, str], says: str
) -> None:
    hub.failure = failure
    with pytest.raises(BuildError, match=says) as caught:
        download.fetch(silent)
    assert caught.value.exit_code is ExitCode.UNAVAILABLE
    assert f"config.json of somewhere/tiny at {REVISION}" in caught.value.message


def test_no_space_is_found_before_the_first_byte(
    download: Download, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine_build.download.SPARE_BYTES", 1 << 60)
    with pytest.raises(BuildError, match="are to be fetched") as caught:
        download.fetch(silent)
    assert caught.value.exit_code is ExitCode.STORAGE
    assert hub.asked == []
