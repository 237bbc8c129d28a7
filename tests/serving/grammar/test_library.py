"""Where the core is looked for: among the packages, or apart from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.grammar import library


@pytest.fixture
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place apart, empty as yet."""
    monkeypatch.setattr(library, "APART", tmp_path)
    return tmp_path


def test_without_a_core_apart_the_packages_is_taken(apart: Path) -> None:
    found = library.find()
    assert found is not None
    assert apart not in found.parents
    path = ["first"]
    library.prefer(path)
    assert path == ["first"]


def test_a_core_apart_comes_before_the_packages(apart: Path) -> None:
    core = apart / "xgrammar" / library.NAME
    core.parent.mkdir()
    core.touch()
    assert library.is_installed()
    assert library.find() == core
    path = ["first"]
    library.prefer(path)
    library.prefer(path)
    assert path == [str(apart), "first"]
