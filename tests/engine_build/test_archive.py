"""Archives: one engine, one archive; whatever is wrong with one is named and leaves nothing."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from engine_build import archive, manifest
from engine_build.failure import BuildError, ExitCode
from engine_build.place import State
from serving.boundary import engine
from serving.boundary.engine import EngineError, File
from tests.engine_build.scene import FIRST, SECOND, Scene, furnish

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")


def bring(scene: Scene, source: Path, other: State) -> Path:
    return archive.import_engine(source, other, scene.steps())[0]


def refused(scene: Scene, source: Path, tmp_path: Path) -> str:
    """Returns why an archive was refused, and checks that nothing of it was left."""
    other = State(tmp_path / "other")
    with pytest.raises((BuildError, EngineError)) as caught:
        bring(scene, source, other)
    if isinstance(caught.value, BuildError):
        assert caught.value.exit_code is ExitCode.DATA
    engines = other.root / "engines"
    assert not engines.exists() or all(one.name.endswith(".lock") for one in engines.iterdir())
    return str(caught.value)


def rewrite(source: Path, change: Callable[[tarfile.TarInfo, bytes], bytes | None]) -> Path:
    """Writes an archive again; `change` may change a member, or leave it out with None."""
    target = source.with_name("changed.tar")
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for member in old:
            file = old.extractfile(member)
            assert file
            content = change(member, file.read())
            if content is not None:
                member.size = len(content)
                new.addfile(member, io.BytesIO(content))
    return target


@pytest.fixture
def exported(scene: Scene, tmp_path: Path) -> Path:
    archive.export(scene.engine, tmp_path / "engine.tar")
    return tmp_path / "engine.tar"


def test_an_engine_has_one_archive_whenever_and_wherever_it_was_built(
    scene: Scene, exported: Path, tmp_path: Path
) -> None:
    again = furnish(tmp_path / "again")
    again.build(publish=False)
    archive.export(again.engine, tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == exported.read_bytes()


def test_what_tuning_left_stays_behind(scene: Scene, tmp_path: Path) -> None:
    (scene.engine / "cache").mkdir()
    (scene.engine / "cache" / "kernel").write_bytes(b"machine code")
    archive.export(scene.engine, tmp_path / "engine.tar")
    with tarfile.open(tmp_path / "engine.tar") as opened:
        assert not [name for name in opened.getnames() if "cache" in name]


def test_a_changed_file_is_not_exported_and_no_archive_is_left(
    scene: Scene, tmp_path: Path
) -> None:
    damaged = scene.engine / "checkpoint" / "model-00001.safetensors"
    damaged.unlink()
    damaged.write_bytes(bytes((scene.origins / FIRST).stat().st_size))
    with pytest.raises(EngineError, match=r"model-00001\.safetensors has changed"):
        archive.export(scene.engine, tmp_path / "engine.tar")
    assert not list(tmp_path.glob("*.tar*"))
    assert not list(tmp_path.glob(".*"))


def test_a_changed_byte_is_named(scene: Scene, exported: Path, tmp_path: Path) -> None:
    def change(member: tarfile.TarInfo, content: bytes) -> bytes:
        return content[:-1] + b"!" if member.name.endswith("00002.safetensors") else content

    message = refused(scene, rewrite(exported, change), tmp_path)
    size_bytes = (scene.origins / SECOND).stat().st_size
    assert f"checkpoint/{SECOND} has {size_bytes} bytes and sha256" in message
    assert "Export it again" in message


def test_a_missing_and_an_additional_file_are_named(
    scene: Scene, exported: Path, tmp_path: Path
) -> None:
    def leave_out(member: tarfile.TarInfo, content: bytes) -> bytes | None:
        return None if member.name.endswith("00002.safetensors") else content

    def rename(member: tarfile.TarInfo, content: bytes) -> bytes:
        if member.name.endswith("00002.safetensors"):
            member.name = "../../outside"
        return content

    missing = rewrite(exported, leave_out)
    assert "checkpoint/model-00002.safetensors is missing" in refused(scene, missing, tmp_path)
    strange = rewrite(exported, rename)
    assert "holds '../../outside'" in refused(scene, strange, tmp_path)


@pytest.mark.parametrize("kept", [100, 5000, 20000])
def test_a_truncated_archive_is_refused(
    scene: Scene, exported: Path, tmp_path: Path, kept: int
) -> None:
    short = tmp_path / "short.tar"
    short.write_bytes(exported.read_bytes()[:kept])
    assert "is no whole engine" in refused(scene, short, tmp_path)


def test_what_is_no_archive_is_refused(scene: Scene, tmp_path: Path) -> None:
    other = tmp_path / "other.tar"
    other.write_bytes(b"not a tar file" * 1000)
    assert "is no whole engine" in refused(scene, other, tmp_path)
    with tarfile.open(other, "w") as opened:
        opened.addfile(tarfile.TarInfo("readme"))
    assert "does not begin with an engine.json" in refused(scene, other, tmp_path)


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil", "a//b"])
def test_a_manifest_that_leads_outside_is_refused(
    scene: Scene, exported: Path, tmp_path: Path, path: str
) -> None:
    built = engine.read(scene.engine)
    evil = msgspec.structs.replace(built, files=(File(path=path, size_bytes=1, sha256="0"),))

    def change(member: tarfile.TarInfo, content: bytes) -> bytes:
        return engine.encode(evil) if member.name.endswith("engine.json") else content

    assert "is no path inside an engine" in refused(scene, rewrite(exported, change), tmp_path)


def test_a_name_that_leads_outside_is_refused(scene: Scene, exported: Path, tmp_path: Path) -> None:
    evil = msgspec.structs.replace(engine.read(scene.engine), name="../evil")

    def change(member: tarfile.TarInfo, content: bytes) -> bytes:
        return engine.encode(evil) if member.name.endswith("engine.json") else content

    assert "'../evil' is no name" in refused(scene, rewrite(exported, change), tmp_path)


def test_an_import_that_fails_leaves_the_engine_of_before(
    scene: Scene, exported: Path, tmp_path: Path
) -> None:
    (scene.origins / "config.json").write_bytes(b"{}")
    later = scene.build(publish=False).engine
    with pytest.raises(BuildError):
        archive.import_engine(_cut(exported), scene.state, scene.steps())
    assert engine.verify(scene.engine) == later
    archive.import_engine(exported, scene.state, scene.steps())
    assert engine.verify(scene.engine).digest != later.digest


def _cut(source: Path) -> Path:
    target = source.with_name("cut.tar")
    target.write_bytes(source.read_bytes()[:-20000])
    return target


def test_no_space_is_found_before_the_first_byte(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "size_bytes", lambda _built: 1 << 60)
    with pytest.raises(BuildError, match="are to be written") as caught:
        archive.export(scene.engine, tmp_path / "engine.tar")
    assert caught.value.exit_code is ExitCode.STORAGE


def test_an_archive_goes_into_a_new_directory(scene: Scene, tmp_path: Path) -> None:
    target = tmp_path / "new" / "engine.tar"
    assert archive.export(scene.engine, target).digest == engine.read(scene.engine).digest
    assert target.is_file()
