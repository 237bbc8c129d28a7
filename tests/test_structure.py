"""docs/structure.md has a line for every room."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
PAGE = (REPOSITORY / "docs" / "structure.md").read_text(encoding="utf-8")


def test_no_room_is_missing() -> None:
    top = ("config", "deploy", "engine_build", "model_assets", "benchmarks", "tests")
    rooms = [path for path in (REPOSITORY / "serving").iterdir() if (path / "__init__.py").exists()]
    for room in (*top, *(f"serving/{path.name}" for path in rooms)):
        assert f"| `{room}/` |" in PAGE, room


def test_no_room_is_made_up() -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith("| `") and "/` |" in line]
    for line in lines:
        assert (REPOSITORY / line.split("`")[1]).is_dir(), line
