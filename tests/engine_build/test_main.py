"""The command line: what it prints, and that every failure is one line with its exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from engine_build import fetch
from engine_build.failure import ExitCode
from tests import limits
from tests.engine_build.scene import Scene

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")

Run = Callable[..., int]


def test_inspect_shows_the_engine_by_name_tag_and_directory(
    scene: Scene, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = scene.build()
    for name in ("gpt-oss-development", f"{outcome.tag}", "gpt-oss-development:latest"):
        assert run("inspect", name) == 0
        assert outcome.engine.digest in capsys.readouterr().out
    assert run("inspect", str(scene.engine)) == 0
    shown = capsys.readouterr().out
    assert "m (a stand-in, not the real model)" in shown
    size_bytes = (scene.origins / "config.json").stat().st_size
    assert f"checkpoint/config.json, {size_bytes:,} bytes" in shown


def test_verify_names_the_file_that_has_changed(
    scene: Scene, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("verify", "gpt-oss-development") == 0
    assert "sound" in capsys.readouterr().out
    damaged = scene.engine / "checkpoint" / "model-00001.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.unlink()
    damaged.write_bytes(content)
    assert run("verify", "gpt-oss-development") == ExitCode.DATA
    message = capsys.readouterr().err
    assert "model-00001.safetensors has changed" in message
    assert message.splitlines()[-1].startswith("error: ")


def test_list_shows_what_was_built_and_what_is_registered(
    scene: Scene, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("list") == 0
    shown = capsys.readouterr().out
    assert shown.count(f"{scene.build().tag}") == 2
    (scene.engine / "engine.json").write_text("{}", encoding="utf-8")
    assert run("list") == 0
    assert "engine.json: Object missing required field" in capsys.readouterr().out


def test_find_prints_the_directory(
    scene: Scene, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("find", "gpt-oss-development") == 0
    assert capsys.readouterr().out.strip() == str(scene.engine)


def test_an_engine_that_is_not_there_is_one_line(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("find", "nothing:1") == ExitCode.MISSING
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: there is no engine nothing:1")


def test_a_profile_that_cannot_be_built_here_is_one_line(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("build", "gpt-oss-120b-2xh100") == ExitCode.UNAVAILABLE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: gpt-oss-120b-2xh100 cannot be built here: TensorRT-LLM")


def test_plan_tells_the_bytes_on_a_rank_without_a_gpu(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("plan", "gpt-oss-120b-2xh100", "--for", "latency") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("gpt-oss-120b-2xh100-latency: 2 x NVIDIA H100 80GB HBM3")
    assert "kv_cache" in shown


def test_an_interrupted_build_says_how_to_go_on(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_arguments: object, **_named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "choose", interrupt)
    assert run("build", "development") == ExitCode.INTERRUPTED
    assert "Run the same command again" in capsys.readouterr().err


def test_a_dry_run_says_every_step_and_does_none(
    scene: Scene, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(scene.root.rglob("*"))
    assert run("build", "gpt-oss-120b-2xh100", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("stops at once: gpt-oss-120b-2xh100 cannot be built here")
    assert "model-00003-of-00014.safetensors: 4.12 GB, to be fetched" in shown
    assert "fetch: 24 files, 65.28 GB of 24 files" in shown
    assert "activations fp8, KV cache fp8, against weights mxfp4, activations bf16" in shown
    assert "else weights mxfp4, activations bf16, KV cache fp8" in shown
    assert "else weights mxfp4, activations fp8, KV cache auto" in shown
    assert "else weights mxfp4, activations bf16, KV cache auto" in shown
    assert f"in BentoML's model store, {scene.store}" in shown
    assert sorted(scene.root.rglob("*")) == before


def test_a_dry_run_of_what_is_built_has_nothing_to_do(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, scene: Scene
) -> None:
    assert run("build", "development", "--dry-run") == 0
    assert "expand to" in capsys.readouterr().out
    monkeypatch.setattr(fetch, "find", lambda *_arguments: scene)
    assert run("build", "development", "--dry-run") == 0
    assert capsys.readouterr().out.startswith(f"nothing: {scene.engine} is up to date")


def test_fetch_hashes_what_is_here_and_says_what_is_not(
    scene: Scene, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("fetch", "development") == 0
    assert capsys.readouterr().out.startswith("development: whole, every file")
    assert run("fetch", "gpt-oss-20b-1xh100", "--dry-run") == 0
    assert "fetch: 12 files, 13.79 GB of 12 files" in capsys.readouterr().out
    arguments = ("fetch", "gpt-oss-20b-1xh100", "--checkpoint", str(scene.origins))
    assert run(*arguments, "--dry-run") == 0
    assert "are missing, and the build would stop" in capsys.readouterr().out
    assert run(*arguments) == ExitCode.DATA
    assert "config.json: num_hidden_layers is 1, this model has 24" in capsys.readouterr().err
    (scene.origins / "config.json").unlink()
    assert run(*arguments) == ExitCode.MISSING
    assert "USAGE_POLICY is missing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("profile", "says"),
    [
        ("development-int8", ["convert: the weights to int8, 78.88 MB", "gate: weights int8"]),
        ("development-2ranks", ["cut: 2 rank files, 0.10 GB", "compare: the ranks' logits"]),
    ],
)
def test_a_dry_run_says_what_would_be_converted_and_cut(
    run: Run, capsys: pytest.CaptureFixture[str], profile: str, says: list[str]
) -> None:
    assert run("build", profile, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert all(line in shown for line in says)


def test_a_start_imports_neither_numpy_nor_torch() -> None:
    """`make serve` starts with a build that has nothing to do."""
    code = (
        "import sys, engine_build.__main__; sys.exit({'numpy', 'torch'} & {*sys.modules} != set())"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("list",),
        ("find", "gpt-oss-development"),
        ("obtain", "gpt-oss-20b-cpu"),
        ("inspect", "gpt-oss-development"),
        ("verify", "gpt-oss-development"),
        ("build", "development"),
        ("build", "gpt-oss-20b-cpu", "--dry-run"),
        ("fetch", "gpt-oss-20b-cpu"),
    ],
)
def test_a_state_directory_that_may_not_be_read_is_one_line(
    scene: Scene, arguments: tuple[str, ...]
) -> None:
    scene.state.root.chmod(0)
    try:
        done = subprocess.run(
            limits.unprivileged(sys.executable, "-m", "engine_build", *arguments),
            env={**os.environ, "GPT_OSS_STATE": str(scene.state.root)},
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        scene.state.root.chmod(0o755)
    assert done.returncode == ExitCode.STORAGE
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {scene.state.root}")
    assert line.endswith("Permission denied")
