"""A build: deterministic, idempotent, and finished by the next run wherever it was killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bentoml._internal.models import ModelStore

from engine_build import publish
from engine_build.failure import BuildError, ExitCode
from engine_build.report import BuildReport
from serving.boundary import engine
from serving.boundary.engine import Engine, EngineError
from tests.engine_build.scene import FIRST, SECOND, Scene, furnish

# BentoML 1.4.39 makes its patterns in a way that pathspec warns of.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")

FORK = multiprocessing.get_context("fork")
STEPS_TO_DIE_AT = ("link", "replace", "rename", "fsync", "unlink", "rmdir")


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return furnish(tmp_path)


def test_a_build_makes_a_sound_engine_and_registers_it(scene: Scene) -> None:
    outcome = scene.build()
    assert outcome.worked
    assert outcome.directory == scene.engine
    built = engine.verify(scene.engine)
    assert [file.path for file in built.files] == [
        "checkpoint/LICENSE",
        "checkpoint/config.json",
        f"checkpoint/{FIRST}",
        f"checkpoint/{SECOND}",
        "checkpoint/model.safetensors.index.json",
    ]
    assert built.golden[0].tokens == (3,)
    assert outcome.tag == f"gpt-oss-development:{built.digest[:16]}"
    assert engine.verify(scene.store / "gpt-oss-development" / built.digest[:16]) == built


def test_the_directory_holds_the_engine_and_nothing_else(scene: Scene) -> None:
    scene.build()
    found = {p.relative_to(scene.engine).as_posix() for p in scene.engine.rglob("*") if p.is_file()}
    assert found == {file.path for file in engine.read(scene.engine).files} | {"engine.json"}
    left = {path.name for path in scene.engine.parent.iterdir()}
    name = scene.profile.name
    assert left == {name, f"{name}.build.json", f".{name}.lock"}


def test_a_second_build_does_nothing(scene: Scene) -> None:
    first = scene.build()
    changed = scene.engine.stat().st_mtime_ns
    second = scene.build()
    assert not second.worked
    assert second.engine == first.engine
    assert scene.engine.stat().st_mtime_ns == changed
    assert len(scene.recorded) == 1


def test_the_digest_depends_on_the_inputs_alone(tmp_path: Path) -> None:
    one = furnish(tmp_path / "one").build()
    other = furnish(tmp_path / "other").build(publish=False)
    assert one.engine == other.engine


def test_a_change_of_the_checkpoint_or_the_runtime_makes_another_engine(scene: Scene) -> None:
    digests = {scene.build().engine.digest}
    (scene.origins / "config.json").write_bytes(b"{}")
    digests.add(scene.build().engine.digest)
    scene.runtime_version = "2"
    digests.add(scene.build().engine.digest)
    assert len(digests) == 3
    assert engine.read(scene.engine).runtime_version == "2"


def test_a_build_for_which_only_the_store_is_missing_only_publishes(scene: Scene) -> None:
    scene.build(publish=False)
    outcome = scene.build()
    assert outcome.worked
    assert publish.published(outcome.engine, scene.store)
    assert len(scene.recorded) == 1


def test_the_report_has_the_times_and_the_digest_has_not(scene: Scene) -> None:
    outcome = scene.build()
    report = msgspec.json.decode(
        scene.state.report(scene.profile.name).read_bytes(), type=BuildReport
    )
    assert report.digest == outcome.engine.digest
    assert report.tag == outcome.tag
    assert report.size_bytes == sum(p.stat().st_size for p in scene.origins.iterdir())
    assert len(report.steps) == 3
    assert report.steps[0].size_bytes == report.size_bytes
    assert report.gate is None


@pytest.mark.parametrize("name", ["config.json", SECOND])
def test_a_changed_byte_is_found_and_named_and_force_repairs_it(scene: Scene, name: str) -> None:
    scene.build()
    damaged = scene.engine / "checkpoint" / name
    content = bytearray(damaged.read_bytes())
    content[7] ^= 1
    damaged.unlink()  # or the origin, which is the same file, would change too
    damaged.write_bytes(content)
    with pytest.raises(EngineError, match=name):
        engine.verify(scene.engine)
    scene.build(force=True)
    engine.verify(scene.engine)


def test_a_file_that_is_not_what_the_checkpoint_says_is_named(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = scene.fetch(scene.steps())
    size_bytes = (scene.origins / FIRST).stat().st_size
    (scene.origins / FIRST).write_bytes(b"x" * size_bytes)
    monkeypatch.setattr(scene, "fetch", lambda _steps: checkpoint)
    with pytest.raises(BuildError, match=rf"{FIRST} has {size_bytes} bytes") as caught:
        scene.build()
    assert caught.value.exit_code is ExitCode.DATA
    assert not scene.engine.exists()


def test_a_full_disk_is_named_and_the_next_build_goes_on(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device", str(target))

    with monkeypatch.context() as patched:
        patched.setattr(os, "link", full)
        with pytest.raises(BuildError, match="No space left on device") as caught:
            scene.build()
    assert caught.value.exit_code is ExitCode.STORAGE
    assert "run the same command again" in caught.value.advice
    scene.build()
    engine.verify(scene.engine)


def test_files_are_copied_where_links_cannot_be(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crossing(source: Path, target: Path) -> None:
        raise OSError(18, "Invalid cross-device link", str(target))

    monkeypatch.setattr(os, "link", crossing)
    scene.build()
    engine.verify(scene.engine)
    placed = scene.engine / "checkpoint" / "config.json"
    assert not placed.samefile(scene.origins / "config.json")


@pytest.fixture
def no_flushing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares the disk: what a killed process has written is there, flushed or not."""
    monkeypatch.setattr(os, "fsync", lambda _descriptor: None)


@contextmanager
def dying_at(step: int) -> Iterator[list[int]]:
    """Makes this process kill itself just before its `step`-th change of the file system."""
    count = [0]

    def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **named: Any) -> Any:
            count[0] += 1
            if count[0] == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)

        return counted

    with pytest.MonkeyPatch.context() as patched:
        for name in STEPS_TO_DIE_AT:
            patched.setattr(os, name, deadly(getattr(os, name)))
        yield count


def _build_and_die(scene: Scene, step: int, force: bool) -> None:
    with dying_at(step):
        scene.build(force=force)


@pytest.mark.usefixtures("no_flushing")
@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_a_build_killed_at_any_change_of_the_file_system_is_finished_by_the_next(
    tmp_path: Path, again: bool
) -> None:
    expected = furnish(tmp_path / "undisturbed").build().engine
    counting = furnish(tmp_path / "counted")
    if again:
        counting.build()
    with dying_at(-1) as changes:
        counting.build(force=again)
    assert changes[0] > 40
    for step in range(1, changes[0] + 1):
        scene = furnish(tmp_path / str(step))
        if again:
            scene.build()
        child = FORK.Process(target=_build_and_die, args=(scene, step, again))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        if scene.engine.exists():  # what has the engine's name is whole
            assert engine.verify(scene.engine) == expected
        if scene.store.exists():  # and so is every model that BentoML finds
            for model in ModelStore(scene.store).list():
                assert engine.verify(Path(model.path)) == expected
        assert scene.build().engine == expected
        _assert_complete(scene, expected)


def _assert_complete(scene: Scene, expected: Engine) -> None:
    assert engine.verify(scene.engine) == expected
    model = ModelStore(scene.store).get(f"{expected.name}:latest")
    assert str(model.tag) == publish.tag(expected)
    assert engine.verify(Path(model.path)) == expected
    assert not list((scene.store.parent / "tmp").iterdir())
    name = scene.profile.name
    left = {path.name for path in scene.engine.parent.iterdir()}
    assert left - {f".{name}.build.json.partial"} == {name, f"{name}.build.json", f".{name}.lock"}


def _convert_and_die(scene: Scene, step: int) -> None:
    with dying_at(step):
        scene.build(publish=False)


@pytest.mark.usefixtures("no_flushing")
def test_a_conversion_killed_at_any_change_of_the_file_system_is_finished_by_the_next(
    tmp_path: Path,
) -> None:
    expected = furnish(tmp_path / "undisturbed", "fp8", 2).build(publish=False).engine
    counting = furnish(tmp_path / "counted", "fp8", 2)
    with dying_at(-1) as changes:
        counting.build(publish=False)
    assert changes[0] > 80
    for step in range(1, changes[0] + 1):
        scene = furnish(tmp_path / str(step), "fp8", 2)
        child = FORK.Process(target=_convert_and_die, args=(scene, step))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
        if scene.engine.exists():
            assert engine.verify(scene.engine) == expected
        assert scene.build(publish=False).engine == expected
        assert engine.verify(scene.engine) == expected
        name = scene.profile.name
        left = {path.name for path in scene.engine.parent.iterdir()}
        left -= {f".{name}.build.json.partial"}
        assert left == {name, f"{name}.build.json", f".{name}.lock"}
