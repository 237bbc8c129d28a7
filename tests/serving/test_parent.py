"""A process leaves once, when its parent has changed, and not before."""

from __future__ import annotations

from serving.parent import leave_with_parent


async def test_it_leaves_when_the_parent_is_another_and_not_before() -> None:
    parents = iter([41, 41, 41, 1])
    happened: list[str] = []

    async def pause(_seconds: float) -> None:
        happened.append("pause")

    await leave_with_parent(
        parent=lambda: next(parents), leave=lambda: happened.append("leave"), pause=pause
    )
    assert happened == ["pause", "pause", "leave"]
