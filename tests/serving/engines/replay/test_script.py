from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from serving.boundary.engine import EngineError
from serving.engines.replay import script as scripts
from serving.engines.replay.script import Scenario, Script

EVERY_STEP: tuple[scripts.ScriptStep, ...] = (
    scripts.Tokens(ids=(1, 2)),
    scripts.Repeat(ids=(3,), times=2),
    scripts.Repeat(ids=(3,)),
    scripts.Echo(after=(1,), before=(2,)),
    scripts.Garbage(kind="repeated"),
    scripts.Delay(seconds=0.5),
    scripts.Stall(),
    scripts.Suspend(seconds=0.5),
    scripts.SlowAbort(seconds=1.0),
    scripts.Raise(kind="invalid"),
    scripts.Exhaust(times=2),
    scripts.Fail(message="over"),
    scripts.Die(exit_code=3),
    scripts.Freeze(),
    scripts.Hang(seconds=0.1),
)


def test_every_step_survives_the_file(tmp_path: Path) -> None:
    script = Script(
        scenarios=(Scenario(steps=EVERY_STEP, match=(9,)),),
        load=(scripts.Refuse(message="no"), scripts.Hang()),
        pace_seconds=0.002,
        tokens_per_step=2,
        prefill_tokens_per_second=1000.0,
    )
    (tmp_path / scripts.SCRIPT_NAME).write_bytes(scripts.encode(script))
    assert scripts.read(tmp_path) == script


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('{"scenarios":[{"steps":[]}],"pace":1}', "pace"),
        ('{"scenarios":[{"steps":[{"do":"tokens","ids":[1],"id":1}]}]}', "steps"),
        ('{"scenarios":[{"steps":[{"do":"explode"}]}]}', "explode"),
        ('{"scenarios":[{"steps":[{"do":"tokens","ids":[]}]}]}', "ids"),
        ('{"scenarios":[{"steps":[{"do":"delay","seconds":-1}]}]}', "seconds"),
        ('{"scenarios":[]}', "scenarios"),
        ('{"scenarios":[{"steps":[]}],"tokens_per_step":0}', "tokens_per_step"),
        ("{", "script.json"),
    ],
)
def test_a_wrong_script_is_refused_by_file_and_field(
    tmp_path: Path, content: str, named: str
) -> None:
    (tmp_path / scripts.SCRIPT_NAME).write_text(content)
    with pytest.raises(EngineError, match=named) as raised:
        scripts.read(tmp_path)
    assert scripts.SCRIPT_NAME in str(raised.value)


def test_a_missing_script_is_named(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"script\.json is missing"):
        scripts.read(tmp_path)


def test_the_example_in_the_documentation_is_a_script() -> None:
    example = (scripts.__doc__ or "").split("\n\n")[1]
    script = msgspec.json.decode(example, type=Script)
    assert script.scenarios[0].steps[1] == scripts.Die()
