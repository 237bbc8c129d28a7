"""From a hub to an answer of a model on a CPU, by the commands of `make serve`.

In a copy of this repository, where gpt-oss-20b is as small as the development model.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import msgspec
import pytest

from engine_build import durable
from model_assets import manifest
from model_assets.development import expand
from serving.boundary import engine
from tests.commands import REPOSITORY, run, serve
from tests.development import COMMAND

NAME = "gpt-oss-20b-cpu"
MODEL = "openai/gpt-oss-20b"


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_arguments: object) -> None:
        """The test's output is not the server's log."""


class Checkout:
    """A repository whose gpt-oss-20b a hub in this process has."""

    def __init__(self, root: Path) -> None:
        self.root = root / "repository"
        self.state = root / "state"
        self.home = root / "bentoml"
        for part in ("engine_build", "serving", "model_assets", "config"):
            shutil.copytree(REPOSITORY / part, self.root / part)
        path = self.root / "model_assets" / "checkpoints" / "gpt-oss-20b.json"
        published = manifest.read("gpt-oss-20b")
        files = root / "hub" / MODEL / "resolve" / published.revision
        files.parent.mkdir(parents=True)
        (compact,) = manifest.read("development").files
        expand.expand(REPOSITORY / "model_assets" / compact.path, files)
        small = msgspec.structs.replace(
            published,
            architecture=manifest.read("development").architecture,
            files=tuple(
                manifest.CheckpointFile(
                    path=file.name, size_bytes=file.stat().st_size, sha256=durable.sha256(file)
                )
                for file in sorted(files.iterdir())
            ),
        )
        path.write_bytes(msgspec.json.encode(small))
        handler = partial(_Quiet, directory=str(root / "hub"))
        self.hub = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.hub.serve_forever, kwargs={"poll_interval": 0.01}).start()

    def obtain(self, name: str = NAME, **extra: str) -> tuple[int, str, str]:
        """Runs what `make serve` runs; returns exit code, output and errors."""
        variables = {
            "GPT_OSS_STATE": str(self.state),
            "HF_ENDPOINT": f"http://127.0.0.1:{self.hub.server_address[1]}",
            **extra,
        }
        done = run([*COMMAND, "obtain", name], self.home, extra=variables, cwd=self.root)
        return done.returncode, done.stdout, done.stderr

    def close(self) -> None:
        """Ends the hub."""
        self.hub.shutdown()
        self.hub.server_close()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """A checkout where nothing has been fetched."""
    made = Checkout(tmp_path_factory.mktemp("checkout"))
    yield made
    made.close()


def test_what_is_missing_is_said_before_the_first_byte(checkout: Checkout) -> None:
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "PATH": "/nowhere"}
    code, printed, errors = checkout.obtain(**nowhere)
    (*plan, error) = errors.splitlines()
    assert (code, printed) == (69, "")
    assert plan[0] == f"{NAME}: in memory, on a CPU"
    assert error.startswith(f"error: {NAME} cannot be built here: ")
    assert "there is no gcc" in error
    assert f"network: {MODEL}: cannot be fetched" in error
    assert not list(checkout.state.rglob("*.safetensors"))


def test_an_engine_for_gpus_is_not_built_on_the_way(checkout: Checkout) -> None:
    code, printed, errors = checkout.obtain("gpt-oss-120b-2xh100")
    assert (code, printed) == (69, "")
    assert "python -m engine_build build gpt-oss-120b-2xh100" in errors
    assert "2 x NVIDIA H100" in errors


def test_it_is_fetched_checked_converted_and_served_under_its_own_name(
    checkout: Checkout, tmp_path: Path
) -> None:
    code, printed, errors = checkout.obtain()
    assert code == 0, errors
    directory = Path(printed.strip())
    built = engine.verify(directory)
    assert (built.model.repository, built.precision.weights) == (MODEL, "int8")
    for step in ("Fetching model.safetensors", "Hashing model", "Converting the weights to int8"):
        assert step in errors
    assert checkout.obtain(HF_ENDPOINT="http://127.0.0.1:9") == (0, printed, "")
    with serve(tmp_path, extra={"GPT_OSS_ENGINE": str(directory)}) as served:
        assert f'"model": "{MODEL}"' in served.wait_until_ready()
        listed = httpx.get(f"{served.url}/v1/models").json()["data"]
        assert [(model["id"], model["engine"]["stand_in"]) for model in listed] == [(MODEL, False)]
        body = {"model": MODEL, "messages": [{"role": "user", "content": "What is 2 + 2?"}]}
        answer = httpx.post(f"{served.url}/v1/chat/completions", json=body, timeout=60)
        assert answer.status_code == 200, json.dumps(answer.json())
        assert answer.json()["model"] == MODEL
