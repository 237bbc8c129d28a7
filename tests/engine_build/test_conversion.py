"""Engines whose weights are written anew: which files they hold, and that a build goes on."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from engine_build import conversion, durable, space
from engine_build.failure import BuildError, ExitCode
from engine_build.report import BuildReport
from engine_build.weights import contents, layout, quantise, shard
from serving.boundary import engine
from tests.engine_build.scene import FIRST, Scene, furnish

# BentoML 1.4.39 makes its patterns in a way that pathspec warns of.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")

WEIGHTS = ("fp8", "int8")
LAYER, TABLES = "model-00000-of-00001.safetensors", "model-00001-of-00001.safetensors"


def report(scene: Scene) -> BuildReport:
    content = scene.state.report(scene.profile.name).read_bytes()
    return msgspec.json.decode(content, type=BuildReport)


def held(scene: Scene) -> set[str]:
    """Returns the names of the files in the engine's checkpoint."""
    return {path.name for path in (scene.engine / "checkpoint").iterdir()}


@pytest.mark.parametrize("weights", WEIGHTS)
def test_an_engine_holds_the_converted_weights_and_everything_else(
    tmp_path: Path, weights: str
) -> None:
    scene = furnish(tmp_path, weights)
    built = scene.build(publish=False).engine
    assert engine.verify(scene.engine) == built
    contents.check(scene.engine, built)
    assert built.precision.weights == weights
    index = "model.safetensors.index.json"
    assert held(scene) == {LAYER, TABLES, index, "config.json", "LICENSE", "quantisation.json"}
    license_file = scene.engine / "checkpoint" / "LICENSE"
    assert license_file.samefile(scene.origins / "LICENSE")
    config = json.loads((scene.engine / "checkpoint" / "config.json").read_bytes())
    assert config["quantization_config"]["quant_method"] == (
        "fp8_tiles" if weights == "fp8" else "mxfp4"
    )


def test_an_engine_of_ranks_has_a_file_for_each(tmp_path: Path) -> None:
    scene = furnish(tmp_path, "fp8", ranks=2)
    built = scene.build(publish=False).engine
    contents.check(scene.engine, built)
    ranks = {shard.file_name(place) for place in layout.places(2, 2)}
    beside = {"config.json", "LICENSE", quantise.REPORT_NAME, shard.REPORT_NAME}
    assert held(scene) == ranks | beside
    found = report(scene)
    assert found.ranks
    assert found.ranks.ranks == 2
    names = [step.name for step in found.steps]
    assert names[:3] == [
        "Hashing the published files",
        "Converting the weights to fp8",
        "Writing 2 rank files",
    ]


def test_the_report_says_what_the_conversion_cost_and_keeps_saying_it(tmp_path: Path) -> None:
    scene = furnish(tmp_path, "fp8")
    scene.build(publish=False)
    made = report(scene).conversion
    assert made
    (found,) = made.quantised
    assert found.source == made.source
    assert found.findings.experts.exact_blocks == found.findings.experts.blocks > 0
    assert json.loads((scene.engine / "checkpoint" / "quantisation.json").read_bytes()) == (
        msgspec.to_builtins(found)
    )
    scene.build()  # only registers it
    assert report(scene).conversion == made
    assert not scene.build().worked


def test_the_digest_covers_the_source_and_what_was_made_of_it(tmp_path: Path) -> None:
    digests = {}
    for number, weights in enumerate(("mxfp4", *WEIGHTS, "fp8")):
        scene = furnish(tmp_path / str(number), weights)
        digests[number] = scene.build(publish=False).engine.digest
    assert digests[1] == digests[3]
    assert len(set(digests.values())) == 3
    (scene.origins / "LICENSE").write_text("another", encoding="utf-8")
    assert scene.build(publish=False).engine.digest != digests[3]


def test_nothing_is_left_but_the_engine(tmp_path: Path) -> None:
    scene = furnish(tmp_path, "int8", ranks=2)
    scene.build(publish=False)
    name = scene.profile.name
    left = {path.name for path in scene.engine.parent.iterdir()}
    assert left == {name, f"{name}.build.json", f".{name}.lock"}
    assert not list(scene.engine.rglob(".*"))


def test_a_changed_byte_of_the_published_files_is_found_before_anything_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = furnish(tmp_path, "fp8")
    checkpoint = scene.fetch(scene.steps())
    content = bytearray((scene.origins / FIRST).read_bytes())
    content[-1] ^= 1
    (scene.origins / FIRST).write_bytes(content)
    monkeypatch.setattr(scene, "fetch", lambda _steps: checkpoint)
    with pytest.raises(BuildError, match=f"{FIRST} has .* and sha256") as caught:
        scene.build(publish=False)
    assert caught.value.exit_code is ExitCode.DATA
    assert not (scene.state.conversion(scene.profile.name) / "fp8").exists()


def test_a_disk_that_is_too_small_is_named_before_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = furnish(tmp_path, "fp8")
    usage = shutil.disk_usage(tmp_path)
    small = usage._replace(free=space.SPARE_BYTES)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: small)
    with pytest.raises(BuildError, match=r"0\.0 GB are to be written, 0\.1 GB are free") as caught:
        scene.build(publish=False)
    assert caught.value.exit_code is ExitCode.STORAGE
    assert "GPT_OSS_STATE" in caught.value.advice
    assert not (scene.state.conversion(scene.profile.name) / "fp8").exists()


def stop_after(
    monkeypatch: pytest.MonkeyPatch, count: int, failure: BaseException
) -> Callable[[], int]:
    """Lets the writing of weights fail after `count` pieces; returns what counts the pieces."""
    write = os.write
    pieces = [0]

    def limited(descriptor: int, piece: bytes) -> int:
        pieces[0] += 1
        if pieces[0] > count:
            raise failure
        return write(descriptor, piece)

    monkeypatch.setattr(os, "write", limited)
    return lambda: pieces[0]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_disk_that_fills_up_is_named_and_the_next_build_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: int
) -> None:
    expected = furnish(tmp_path / "undisturbed", "fp8", ranks).build(publish=False).engine
    counted = furnish(tmp_path / "counted", "fp8", ranks)
    with monkeypatch.context() as patched:
        count = stop_after(patched, 10**9, OSError())
        counted.build(publish=False)
        pieces = count()
    monkeypatch.setattr(conversion, "_workers", lambda: 1)
    scene = furnish(tmp_path / "full", "fp8", ranks)
    full = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patched:
        stop_after(patched, pieces - 1, full)
        with pytest.raises(BuildError, match="No space left on device") as caught:
            scene.build(publish=False)
    assert caught.value.exit_code is ExitCode.STORAGE
    assert "run the same command again" in caught.value.advice
    assert not scene.engine.exists()
    room = scene.state.conversion(scene.profile.name)
    inode = (room / "fp8" / LAYER).stat().st_ino
    with monkeypatch.context() as patched:
        count = stop_after(patched, 10**9, full)
        assert scene.build(publish=False).engine == expected
        assert 0 < count() < pieces
    if ranks == 1:
        assert (scene.engine / "checkpoint" / LAYER).stat().st_ino == inode


def interrupt(*_arguments: object) -> bytes:
    raise KeyboardInterrupt


def test_a_converted_file_that_somebody_changed_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = furnish(tmp_path / "undisturbed", "int8").build(publish=False).engine
    scene = furnish(tmp_path / "changed", "int8")
    monkeypatch.setattr(conversion, "_workers", lambda: 1)
    with monkeypatch.context() as patched:
        patched.setattr(quantise, "_config", interrupt)
        with pytest.raises(KeyboardInterrupt):
            scene.build(publish=False)
    made = scene.state.conversion(scene.profile.name) / "int8" / LAYER
    made.write_bytes(b"not these")
    assert scene.build(publish=False).engine == expected


def test_what_a_killed_build_of_something_else_has_left_is_not_taken(tmp_path: Path) -> None:
    expected = furnish(tmp_path / "one", "fp8", ranks=2).build(publish=False).engine
    scene = furnish(tmp_path / "other", "fp8", ranks=2)
    room = scene.state.conversion(scene.profile.name)
    for directory in ("fp8", "fp8-tp2-ep2", "published/checkpoint"):
        (room / directory).mkdir(parents=True)
        (room / directory / "model-00009-of-00009.safetensors").write_bytes(b"of another model")
    assert scene.build(publish=False).engine == expected


def test_a_checkpoint_on_another_disk_is_read_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crossing(source: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link", str(target))

    copied: list[str] = []
    copy = durable._copy

    def noted(source: Path, target: Path, advance: durable.Advance) -> None:
        copied.append(source.name)
        copy(source, target, advance)

    expected = furnish(tmp_path / "one", "fp8").build(publish=False).engine
    scene = furnish(tmp_path / "other", "fp8")
    monkeypatch.setattr(os, "link", crossing)
    monkeypatch.setattr(durable, "_copy", noted)
    assert scene.build(publish=False).engine == expected
    assert FIRST not in copied
    assert "LICENSE" in copied


def test_a_profile_of_published_weights_has_no_room_for_a_conversion(tmp_path: Path) -> None:
    scene = furnish(tmp_path)
    scene.build(publish=False)
    assert report(scene).conversion is None
    assert durable.sha256(scene.engine / "checkpoint" / FIRST) == durable.sha256(
        scene.origins / FIRST
    )
