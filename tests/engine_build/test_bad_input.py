"""Bad input, through the command line: one line with the file, the field and what to do about it,
and never half an engine."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from engine_build import __main__ as command_line
from engine_build import fetch
from engine_build.failure import ExitCode
from engine_build.place import State
from engine_build.proof import golden
from engine_build.weights import tensors
from engine_build.weights.tensor_file import Spec, open_file, write
from serving.boundary import engine
from serving.boundary.engine import Golden
from tests.engine_build.checkpoints import TINY, describe, make

FORK = multiprocessing.get_context("fork")
FIRST, SECOND = "model-00000-of-00001.safetensors", "model-00001-of-00001.safetensors"
NORM = "model.layers.0.input_layernorm.weight"
NAME = "gpt-oss-development"
PROFILES = Path(__file__).parents[2] / "config" / "engines"

Damage = Callable[[Path], None]


class Machine:
    """A command line with a checkpoint of a few bytes and a directory for engines."""

    def __init__(self, room: Path) -> None:
        self.origins = room / "origins"
        self.state = State(room / "state")
        self.profiles = room
        make(self.origins, TINY)
        self.described = describe(self.origins, TINY)

    @property
    def engine(self) -> Path:
        """Where the development profile's engine is built."""
        return self.state.engine(NAME)

    def profile(self, name: str = "development", *changes: tuple[str, str]) -> str:
        """Writes a profile that is a shipped one with changes, and returns its path."""
        text = (PROFILES / f"{name}.yaml").read_text(encoding="utf-8")
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        path = self.profiles / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    def run(self, *arguments: str) -> int:
        """Runs the command line and returns its exit code."""
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(sys, "argv", ["engine_build", *arguments])
            with pytest.raises(SystemExit) as left:
                command_line.main()
        code = left.value.code
        return code if isinstance(code, int) else 0

    def build(self, *changes: tuple[str, str], force: bool = False) -> int:
        """Builds the development profile, with changes, of this machine's checkpoint."""
        profile = self.profile("development", *changes)
        options = ["--no-publish", *(["--force"] if force else [])]
        return self.run("build", profile, *options, "--checkpoint", str(self.origins))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    monkeypatch.setenv("GPT_OSS_STATE", str(made.state.root))
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    described = fetch.describe
    monkeypatch.setattr(
        fetch,
        "describe",
        lambda profile: (
            made.described if profile.checkpoint == "development" else described(profile)
        ),
    )
    answer = (Golden(name="greeting", prompt=(1,), tokens=(2,)),)
    monkeypatch.setattr(golden, "record", lambda _directory, _built: answer)
    return made


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Returns the one line that a failure is."""
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    return line


def cut_short(directory: Path) -> None:
    path = directory / FIRST
    content = path.read_bytes()
    path.unlink()  # it may be a link
    path.write_bytes(content[:-100])


def without_a_shard(directory: Path) -> None:
    (directory / SECOND).unlink()


def of_another_model(directory: Path) -> None:
    edit_config(directory, {"model_type": "llama"})


def of_another_size(directory: Path) -> None:
    edit_config(directory, {"num_local_experts": 8})


def edit_config(directory: Path, change: Mapping[str, object]) -> None:
    path = directory / tensors.CONFIG_NAME
    content = json.loads(path.read_bytes()) | change
    path.unlink()  # it may be a link
    path.write_text(json.dumps(content), encoding="utf-8")


def of_another_shape(directory: Path) -> None:
    rewrite(directory, {NORM: Spec("BF16", (33,))})


def of_another_dtype(directory: Path) -> None:
    rewrite(directory, {NORM: Spec("F32", (32,))})


def rewrite(directory: Path, change: Mapping[str, Spec]) -> None:
    """Writes the first file again, with other tensors in it."""
    with open_file(directory / FIRST) as file:
        specs = {name: entry.spec for name, entry in file.entries.items()} | dict(change)
    write(directory / FIRST, specs, lambda name: [np.zeros(specs[name].size_bytes, np.uint8)])


CHECKPOINTS: list[tuple[Damage, str, int]] = [
    (cut_short, f"{FIRST}: is cut short within model.", ExitCode.DATA),
    (without_a_shard, f"{SECOND} is missing", ExitCode.MISSING),
    (of_another_model, "config.json: model_type is 'llama', not 'gpt_oss'", ExitCode.DATA),
    (of_another_size, "config.json: num_local_experts is 8, this model has 4", ExitCode.DATA),
    (of_another_shape, f"{FIRST}: {NORM} is BF16 [33], it must be BF16 [32]", ExitCode.DATA),
    (of_another_dtype, f"{FIRST}: {NORM} is F32 [32], it must be BF16 [32]", ExitCode.DATA),
]


@pytest.mark.parametrize(("damage", "says", "code"), CHECKPOINTS)
@pytest.mark.parametrize("weights", ["mxfp4", "fp8"])
def test_a_checkpoint_that_is_not_what_it_must_be_is_not_built(
    machine: Machine,
    capsys: pytest.CaptureFixture[str],
    damage: Damage,
    says: str,
    code: int,
    weights: str,
) -> None:
    damage(machine.origins)
    assert machine.build(("weights: mxfp4", f"weights: {weights}")) == code
    line = last_line(capsys)
    assert says in line
    assert str(machine.origins) in line
    assert "Fetch" in line or "Give the " in line or "It belongs to" in line
    assert not machine.engine.exists()
    assert machine.run("fetch", machine.profile(), "--checkpoint", str(machine.origins)) == code


@pytest.mark.parametrize(("damage", "says", "code"), CHECKPOINTS)
def test_an_engine_that_is_no_longer_what_it_was_is_named(
    machine: Machine, capsys: pytest.CaptureFixture[str], damage: Damage, says: str, code: int
) -> None:
    assert machine.build() == 0
    damage(machine.engine / "checkpoint")
    assert machine.run("verify", NAME) == ExitCode.DATA
    line = last_line(capsys)
    assert f"{machine.engine}/checkpoint/" in line
    # The manifest knows the length of every file: another one is found before its contents.
    assert says in line or "bytes, engine.json says" in line or "is missing" in line
    assert machine.build(force=True) == 0
    assert machine.run("verify", NAME) == 0


@pytest.mark.parametrize("weights", ["fp8", "int8"])
def test_a_converted_engine_with_another_tensor_is_named(
    machine: Machine, capsys: pytest.CaptureFixture[str], weights: str
) -> None:
    assert machine.build(("weights: mxfp4", f"weights: {weights}")) == 0
    capsys.readouterr()
    assert machine.run("inspect", NAME) == 0
    assert ("blocks exact" if weights == "fp8" else "of the largest in") in " ".join(
        capsys.readouterr().out.split()
    )
    path = machine.engine / "checkpoint" / FIRST
    content = path.read_bytes()
    # As long as before: only a name in the header is another.
    path.write_bytes(content.replace(b"input_layernorm", b"inputtlayernorm", 1))
    assert machine.run("verify", NAME) == ExitCode.DATA
    line = last_line(capsys)
    assert f"{FIRST}: has model.layers.0.inputtlayernorm.weight" in line or NORM in line
    assert line.endswith("Build the engine again with --force")


@pytest.mark.parametrize(
    ("shipped", "changes", "says"),
    [
        ("development", [("max_batch_size:", "max_batchsize:")], "Did you mean max_batch_size?"),
        (
            "gpt-oss-120b-2xh100",
            [("expert_parallel: 2", "expert_parallel: 3"), ("tensor_parallel: 2", "x: 2")],
            "unknown key mesh.x",
        ),
        (
            "gpt-oss-120b-2xh100",
            [
                ("expert_parallel: 2", "expert_parallel: 3"),
                ("tensor_parallel: 2", "tensor_parallel: 3"),
                ("count: 2", "count: 3"),
            ],
            "mesh.expert_parallel = 3 does not divide 128 experts. Nearest are 2 and 4",
        ),
        (
            "gpt-oss-120b-2xh100",
            [("max_seq_len: 98304", "max_seq_len: 131073")],
            "limits.max_seq_len = 131073 is over the model's 131072 positions. Give at most 131072",
        ),
        (
            "development",
            [("max_seq_len: 16384", "max_seq_len: 131073"), ("32768", "200000")],
            "limits.max_seq_len = 131073 is over the model's 131072 positions",
        ),
        (
            "gpt-oss-120b-2xh100",
            [("NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB")],
            "device.kind = NVIDIA A100-SXM4-80GB (compute capability 8.0): TensorRT-LLM has",
        ),
        (
            "gpt-oss-120b-2xh100",
            [("NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB")],
            "Did you mean NVIDIA H100 80GB HBM3?",
        ),
        ("development", [("weights: mxfp4", "weights: fp9")], "Did you mean fp8?"),
        (
            "development-2ranks",
            [("expert_parallel: 2", "expert_parallel: 3")],
            "mesh.expert_parallel = 3 does not divide mesh.tensor_parallel = 2",
        ),
        (
            "development-2ranks",
            [("kind: cpu", "kind: NVIDIA H200")],
            "the embedded runtime's ranks compute on CPUs",
        ),
    ],
)
def test_a_profile_that_contradicts_itself_or_the_gpu_is_refused_before_anything_is_done(
    machine: Machine,
    capsys: pytest.CaptureFixture[str],
    shipped: str,
    changes: list[tuple[str, str]],
    says: str,
) -> None:
    profile = machine.profile(shipped, *changes)
    for arguments in (("build", profile), ("build", profile, "--dry-run")):
        assert machine.run(*arguments) == ExitCode.CONFIGURATION
        assert says in last_line(capsys)
    assert not machine.state.root.exists()


@pytest.mark.parametrize("weights", ["mxfp4", "int8"])
def test_a_full_disk_is_named_and_the_same_command_goes_on(
    machine: Machine,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    weights: str,
) -> None:
    change = ("weights: mxfp4", f"weights: {weights}")

    def full(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "link" if weights == "mxfp4" else "write", full)
        assert machine.build(change) == ExitCode.STORAGE
    line = last_line(capsys)
    assert "cannot be written: No space left on device" in line
    assert "run the same command again" in line
    assert not machine.engine.exists()
    assert machine.build(change) == 0
    assert machine.run("verify", NAME) == 0


def test_a_killed_build_leaves_no_engine_and_the_same_command_finishes_it(
    machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    change = ("weights: mxfp4", "weights: fp8")

    def die() -> None:
        def kill(*_arguments: object) -> int:
            os.kill(os.getpid(), signal.SIGKILL)
            return 0

        os.write = kill
        machine.build(change)

    child = FORK.Process(target=die)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert machine.run("verify", NAME) == ExitCode.MISSING
    assert "there is no engine" in last_line(capsys)
    assert machine.build(change) == 0
    assert engine.verify(machine.engine).precision.weights == "fp8"
