"""`bentoml build` and the bento that it makes: the code, and the engine by its tag alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

import model_assets
from engine_build import publish
from serving.boundary.engine import Limits
from serving.engines.replay import directory as replay_engine
from serving.engines.replay.script import Scenario, Script, Tokens
from serving.harmony import vocabulary as words
from tests.commands import REPOSITORY, bentoml, serve

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")

RANKS = Path(model_assets.__file__).parent / "tokenizer" / "o200k_base.tiktoken.xz"


@dataclass(frozen=True)
class Bento:
    """A built bento, the store it is in, and the tag of the engine that it was built with."""

    home: Path
    path: Path
    tag: str
    engine: str


def put_engine(home: Path, room: Path, max_seq_len: int) -> str:
    """Puts a replay engine into the model store and returns its tag."""
    script = Script(scenarios=(Scenario(steps=(Tokens(ids=(words.RETURN,)),)),))
    limits = Limits(max_batch_size=8, max_num_tokens=1024, max_seq_len=max_seq_len)
    replay_engine.write(room, script, ranks=RANKS, limits=limits)
    return publish.publish(room, home / "models")


@pytest.fixture(scope="module")
def bento(tmp_path_factory: pytest.TempPathFactory) -> Bento:
    """A bento of this repository with `replay:latest`, which then is no longer the latest."""
    home = tmp_path_factory.mktemp("bentoml")
    engine = put_engine(home, home / "first", 4096)
    built = bentoml(home, "build", str(REPOSITORY), "--arg", "engine=replay:latest", "-o", "tag")
    assert built.returncode == 0, built.stdout + built.stderr
    tag = built.stdout.strip().splitlines()[-1].removeprefix("__tag__:")
    put_engine(home, home / "second", 8192)
    return Bento(home, home / "bentos" / tag.replace(":", "/"), tag, engine)


def test_a_bento_refers_to_the_engine_and_does_not_hold_it(bento: Bento) -> None:
    described = yaml.safe_load((bento.path / "bento.yaml").read_text(encoding="utf-8"))
    assert [m["tag"] for m in described["services"][0]["models"]] == [bento.engine]
    assert not (bento.path / "models").exists()
    size_bytes = sum(p.stat().st_size for p in bento.path.rglob("*") if p.is_file())
    assert size_bytes < 20_000_000


def test_bentocloud_is_told_that_this_is_an_openai_api(bento: Bento) -> None:
    described = yaml.safe_load((bento.path / "bento.yaml").read_text(encoding="utf-8"))
    assert described["labels"]["openai_endpoint"] == "/v1"


def test_a_bento_holds_what_the_service_needs_and_no_more(bento: Bento) -> None:
    source = bento.path / "src"
    top = {path.name for path in source.iterdir()}
    assert {"service.py", "serving", "config", "requirements.lock"} <= top
    assert not top & {"tests", "benchmarks", ".venv", ".git", ".state", "Makefile"}
    assert not list(source.rglob("__pycache__"))
    code = {path.relative_to(REPOSITORY) for path in (REPOSITORY / "serving").rglob("*.py")}
    assert code <= {path.relative_to(source) for path in source.rglob("*.py")}


def test_the_bento_names_no_index_and_reports_nothing(bento: Bento) -> None:
    packages = (bento.path / "env" / "python" / "requirements.txt").read_text(encoding="utf-8")
    assert "\nbentoml==1.4.39\n" in packages
    assert "://" not in packages
    dockerfile = (bento.path / "env" / "docker" / "Dockerfile").read_text(encoding="utf-8")
    assert "BENTOML_DO_NOT_TRACK=True" in dockerfile


def test_the_bento_serves_from_the_store_with_the_engine_it_was_built_with(
    bento: Bento, tmp_path: Path
) -> None:
    with serve(bento.home, bento=bento.tag, cwd=tmp_path) as served:
        served.wait_until_ready()
        models = httpx.get(f"{served.url}/v1/models").json()["data"]
        port = int(served.url.rsplit(":", 1)[1])
        assert served.sockets() == ({("127.0.0.1", port)}, set())
    assert models[0]["max_model_len"] == 4096


def test_the_environment_chooses_another_engine_for_a_bento(bento: Bento, tmp_path: Path) -> None:
    extra = {"GPT_OSS_ENGINE": str(bento.home / "second")}
    with serve(bento.home, bento=bento.tag, cwd=tmp_path, extra=extra) as served:
        served.wait_until_ready()
        models = httpx.get(f"{served.url}/v1/models").json()["data"]
    assert models[0]["max_model_len"] == 8192
