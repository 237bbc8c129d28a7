"""From the development checkpoint to an OpenAI client's answer by real commands, without a GPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

from serving import engine
from tests.commands import Served, run, serve

MODEL = "openai/gpt-oss-120b"
IDLE_BYTES = 1_000_000_000
COMMAND = [sys.executable, "-m", "engine_build"]


@dataclass(frozen=True)
class Machine:
    """A machine with nothing on it but this repository and its packages."""

    root: Path

    @property
    def home(self) -> Path:
        return self.root / "bentoml"

    @property
    def engine(self) -> Path:
        return self.root / "state" / "engines" / "gpt-oss-development"

    def build(self, *arguments: str) -> str:
        """Builds the development engine and returns what the command says of it."""
        extra = {"GPT_OSS_STATE": str(self.root / "state")}
        done = run([*COMMAND, "build", "development", *arguments], self.home, extra=extra)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A machine on which the development engine has been built once."""
    made = Machine(tmp_path_factory.mktemp("machine"))
    assert "built in" in made.build()
    return made


@pytest.fixture(scope="module")
def served(machine: Machine) -> Iterator[Served]:
    """The development engine, served from the model store."""
    with serve(machine.home) as running:
        running.wait_until_ready()
        yield running


def test_a_second_build_does_no_work(machine: Machine) -> None:
    assert "up to date" in machine.build()


def test_the_engine_is_sound_and_gives_its_golden_answers_again(machine: Machine) -> None:
    built = engine.verify(machine.engine)
    assert built.model.stand_in
    assert [golden.name for golden in built.golden] == ["greeting", "fact", "tool"]
    assert all(golden.tokens for golden in built.golden)
    done = run([*COMMAND, "verify", str(machine.engine), "--run"], machine.home)
    assert done.returncode == 0, done.stderr
    assert built.digest in done.stdout


def test_all_processes_together_idle_below_a_gigabyte(served: Served) -> None:
    resident_bytes = [process.memory_info().rss for process in served.processes()]
    assert sum(resident_bytes) < IDLE_BYTES, resident_bytes


def test_an_openai_client_holds_a_streaming_conversation(served: Served) -> None:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none") as client:
        stream = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            temperature=0,
            stream=True,
        )
        deltas = [chunk.choices[0].delta for chunk in stream if chunk.choices]
    assert "Paris" in "".join(delta.content or "" for delta in deltas)
    assert "".join(str(getattr(delta, "reasoning", None) or "") for delta in deltas)


def test_the_service_says_that_its_model_is_a_stand_in(served: Served) -> None:
    model = httpx.get(f"{served.url}/v1/models").json()["data"][0]
    assert model["id"] == MODEL
    assert model["engine"]["stand_in"] is True
