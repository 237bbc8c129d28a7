"""The precision gate judges formats apart: one that is not good enough takes no other along."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from engine_build.build import build
from engine_build.failure import BuildError, ExitCode
from engine_build.proof.probe import Answer, Question
from engine_build.resolve import resolve
from serving.boundary import engine
from tests.engine_build.proof.pretended import HALF, WHOLE, Pretended, run, short_gate
from tests.engine_build.scene import Scene

FORMATS = {"both": ("fp8", "fp8"), "cache": ("bf16", "fp8"), "activations": ("fp8", "auto")}


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return short_gate(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("bad", "built_as", "tried"),
    [
        # One format alone is too coarse: the other stays.
        ({"both", "activations"}, "cache", ["both", "cache"]),
        ({"both", "cache"}, "activations", ["both", "cache", "activations"]),
        # Each is good enough, both together are not.
        ({"both"}, "cache", ["both", "cache"]),
        ({"both", "cache", "activations"}, None, ["both", "cache", "activations"]),
        (set(), "both", ["both"]),
    ],
)
@pytest.mark.parametrize("starts", [True, False])
def test_a_format_that_fails_does_not_take_the_other_along(
    scene: Scene, bad: set[str], built_as: str | None, tried: list[str], *, starts: bool
) -> None:
    """Whether what is bad gives other tokens, or cannot even be started."""
    names = {formats: name for name, formats in FORMATS.items()}
    asked: list[str] = []

    def ask(directory: Path, wanted: Sequence[Question]) -> list[Answer]:
        found = engine.read(directory).precision
        name = names.get((found.activations, found.kv_cache), "reference")
        asked.append(name)
        if name in bad and not starts:
            raise BuildError(ExitCode.DATA, f"{directory} does not start: no kernel")
        token = 8 if name in bad else 7
        return [Answer((token,) * one.max_tokens) for one in wanted]

    resolved = resolve("gpt-oss-120b-2xh100", None)
    assert resolved.gate
    built = build(
        resolved.profile,
        scene,
        scene.state,
        scene.steps(),
        store=None,
        record=scene.record,
        gate=dataclasses.replace(resolved.gate, ask=ask),
    ).engine
    formats = (built.precision.activations, built.precision.kv_cache)
    assert formats == (("bf16", "auto") if built_as is None else FORMATS[built_as])
    assert [one for one in asked if one != "reference"] == tried
    assert built.gate
    assert [one.passed for one in built.gate.comparisons] == [one not in bad for one in tried]
    assert [one.positions > 0 for one in built.gate.comparisons] == [
        starts or one not in bad for one in tried
    ]


def test_an_engine_that_does_not_start_and_has_no_fallback_says_why(scene: Scene) -> None:
    class Dying(Pretended):
        def ask(self, directory: Path, wanted: Sequence[Question]) -> list[Answer]:
            if engine.read(directory).precision.activations == HALF:
                raise BuildError(ExitCode.DATA, "it does not start: no kernel")
            return super().ask(directory, wanted)

    with pytest.raises(BuildError, match=r"bfloat16.*does not start: no kernel") as caught:
        run(scene, Dying({WHOLE: 7}))
    assert caught.value.exit_code is ExitCode.DATA
