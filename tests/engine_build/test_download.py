"""Downloads, from a server that is made for it."""

from __future__ import annotations

import dataclasses
import io
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from engine_build import durable
from engine_build.download import LOCK_NAME, Download, allowed_wait_seconds
from engine_build.failure import BuildError, ExitCode
from engine_build.hub import HubError, asked_wait_seconds
from engine_build.locking import locked
from engine_build.progress import Steps
from model_assets import manifest
from model_assets.manifest import CheckpointFile, CheckpointManifest
from tests.engine_build.hub_double import CONTENT, REVISION, Hub


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
    for name in ("HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    described = CheckpointManifest(
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
    return Download(
        described, tmp_path / "directory", endpoint=hub.url, sleep=lambda _seconds: None
    )


@pytest.fixture
def steps() -> Steps:
    """Steps that nobody watches."""
    return Steps(Console(file=io.StringIO()))


def test_every_file_of_the_revision_arrives(download: Download, steps: Steps, hub: Hub) -> None:
    directory = download.fetch(steps)
    assert {name: (directory / name).read_bytes() for name in CONTENT} == CONTENT
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
    monkeypatch.setattr("engine_build.space.SPARE_BYTES", 1 << 60)
    with pytest.raises(BuildError, match="are to be written") as caught:
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
    directory = download.fetch(steps)
    assert hub.asked == ["model.safetensors from 300000"]
    assert (directory / "model.safetensors").read_bytes() == CONTENT["model.safetensors"]


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
    directory = download.fetch(steps)
    (directory / "config.json").write_bytes(b"[]")
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
    directory = download.fetch(steps)
    assert (directory / "model.safetensors").read_bytes() == CONTENT["model.safetensors"]
    begun = range(0, len(CONTENT["model.safetensors"]), 100_000)
    assert hub.asked == ["config.json from 0", *(f"model.safetensors from {at}" for at in begun)]


def test_offline_is_respected(
    download: Download, steps: Steps, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
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
    with locked(download.directory / LOCK_NAME, Steps(Console(file=io.StringIO()))):
        second.start()
        assert output.waiting.wait(timeout=30)
        assert hub.asked == []
    second.join(timeout=30)
    assert download.missing() == []


def test_nothing_but_files_is_asked_and_nothing_of_this_machine_is_told(
    download: Download, steps: Steps, hub: Hub
) -> None:
    download.fetch(steps)
    download.fetch(steps)
    host = hub.url.removeprefix("http://")
    told = {"Host": host, "Accept": "*/*", "Accept-Encoding": "identity"}
    told |= {"Connection": "keep-alive", "User-Agent": "gpt-oss-120b"}
    assert [(method, path) for method, path, _ in hub.requests] == [
        ("GET", f"/somewhere/tiny/resolve/{REVISION}/{name}") for name in CONTENT
    ]
    for _, _, headers in hub.requests:
        assert {name.title(): value for name, value in headers.items()} == told


def test_the_token_is_not_told_to_where_the_server_keeps_its_files(
    download: Download, steps: Steps, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    storage = Hub()
    threading.Thread(target=storage.serve_forever, kwargs={"poll_interval": 0.01}).start()
    try:
        hub.storage = storage.url
        download.fetch(steps)
    finally:
        storage.shutdown()
        storage.server_close()
    assert [name for _, path, _ in storage.requests for name in CONTENT if path.endswith(name)]
    assert all("Authorization" not in headers for _, _, headers in storage.requests)
    assert all(headers["Authorization"] == "Bearer hf_secret" for _, _, headers in hub.requests)


def test_a_token_that_a_login_left_is_sent(
    download: Download, steps: Steps, hub: Hub, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "token").write_text("hf_left\n")
    download.fetch(steps)
    assert hub.tokens == {"Bearer hf_left"}


@pytest.mark.parametrize(
    ("status", "headers", "seconds"),
    [
        (429, {"Retry-After": "7"}, 7.0),
        (503, {"Retry-After": "12"}, 12.0),
        (429, {"RateLimit": '"resolvers";r=0;t=42'}, 42.0),
        (429, {"RateLimit-Reset": "9"}, 9.0),
        (429, {"Retry-After": "3", "RateLimit": '"resolvers";r=0;t=42'}, 42.0),
        (429, {}, 60.0),
    ],
)
def test_a_server_that_asks_to_wait_is_waited_for(
    download: Download, hub: Hub, status: int, headers: dict[str, str], seconds: float
) -> None:
    slept: list[float] = []
    output = io.StringIO()
    hub.throttles = [(status, headers)] * 8  # more often than a failure would be tried again
    patient = dataclasses.replace(download, sleep=slept.append)
    directory = patient.fetch(Steps(Console(file=output)))
    assert (directory / "model.safetensors").read_bytes() == CONTENT["model.safetensors"]
    assert slept == [seconds] * 8
    assert output.getvalue().count("The server asks to wait: going on with config.json at ") == 8


def test_a_time_of_day_is_waited_for() -> None:
    now = 1_800_000_000.0
    date = "Fri, 15 Jan 2027 08:00:30 GMT"  # 30 seconds after `now`
    assert asked_wait_seconds({"retry-after": date}, now) == 30.0
    assert asked_wait_seconds({"x-ratelimit-reset": "1800000045"}, now) == 45.0
    assert asked_wait_seconds({"retry-after": "Fri, 15 Jan 2020 08:00:30 GMT"}, now) == 0.0
    assert asked_wait_seconds({"retry-after": "soon", "ratelimit": "limit"}, now) is None


def test_a_server_is_waited_for_as_long_as_the_operator_allows(
    download: Download, steps: Steps, hub: Hub
) -> None:
    slept: list[float] = []
    hub.throttles = [(429, {"Retry-After": "40"})] * 4
    bounded = dataclasses.replace(download, sleep=slept.append, wait_seconds=100)
    with pytest.raises(BuildError, match="asks to wait until") as caught:
        bounded.fetch(steps)
    assert caught.value.exit_code is ExitCode.UNAVAILABLE
    assert slept == [40.0, 40.0]
    assert "GPT_OSS_FETCH_WAIT_SECONDS can allow" in caught.value.message


def test_the_environment_says_how_long_a_server_is_waited_for() -> None:
    assert allowed_wait_seconds({}) == 3600.0
    assert allowed_wait_seconds({"GPT_OSS_FETCH_WAIT_SECONDS": "60"}) == 60.0
    for wrong in ("soon", "-1", "inf", "nan"):
        with pytest.raises(BuildError, match="GPT_OSS_FETCH_WAIT_SECONDS"):
            allowed_wait_seconds({"GPT_OSS_FETCH_WAIT_SECONDS": wrong})


def test_a_look_at_the_server_fetches_nothing(download: Download, hub: Hub, steps: Steps) -> None:
    download.reach()
    assert [(method, path.rpartition("/")[2]) for method, path, _ in hub.requests] == [
        ("HEAD", "config.json")
    ]
    hub.failure = (404, "RepoNotFound")
    with pytest.raises(HubError, match="no such repository"):
        download.reach()
