"""What differs between two engines, in words."""

from __future__ import annotations

import msgspec
import pytest

from engine_build.difference import differences
from serving.boundary import engine
from serving.boundary.engine import Engine, File, Golden
from tests.engine_build.scene import Scene

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")


@pytest.fixture
def built(scene: Scene) -> Engine:
    return engine.read(scene.engine)


def test_an_engine_does_not_differ_from_itself(built: Engine) -> None:
    assert differences(built, built) == []


def test_a_field_is_named_as_in_the_manifest(built: Engine) -> None:
    other = msgspec.structs.replace(
        built,
        precision=msgspec.structs.replace(built.precision, kv_cache="fp8"),
        arguments={"moe_config": {"backend": "CUTLASS"}},
    )
    assert differences(built, other) == [
        "arguments: {}, then absent",
        'arguments.moe_config.backend: absent, then "CUTLASS"',
        'precision.kv_cache: "auto", then "fp8"',
    ]


def test_files_are_named_with_what_is_different(built: Engine) -> None:
    _, config, first, second, _ = built.files
    built = msgspec.structs.replace(built, files=(config, first, second))
    other = msgspec.structs.replace(
        built,
        files=(
            msgspec.structs.replace(config, sha256="0" * 64),
            msgspec.structs.replace(first, size_bytes=7, sha256="1" * 64),
            File(path="checkpoint/new", size_bytes=12345, sha256="2" * 64),
        ),
    )
    assert differences(built, other) == [
        "checkpoint/config.json: contents",
        f"checkpoint/model-00001.safetensors: {first.size_bytes:,} bytes, then 7",
        f"checkpoint/model-00002.safetensors: only in the first, {second.size_bytes:,} bytes",
        "checkpoint/new: only in the second, 12,345 bytes",
    ]


@pytest.mark.parametrize(
    ("golden", "says"),
    [
        (Golden(name="one", prompt=(1,), tokens=(3, 5, 6)), "another answer after 1 tokens (2, "),
        (Golden(name="one", prompt=(1,), tokens=(3,)), "another answer after 1 tokens (2, then 1)"),
        (Golden(name="one", prompt=(2,), tokens=(3, 4)), "golden.one: another prompt"),
        (Golden(name="two", prompt=(1,), tokens=(3, 4)), "golden.one: only in the first"),
    ],
)
def test_golden_answers_are_compared(built: Engine, golden: Golden, says: str) -> None:
    one = msgspec.structs.replace(built, golden=(Golden(name="one", prompt=(1,), tokens=(3, 4)),))
    assert says in differences(one, msgspec.structs.replace(one, golden=(golden,)))[0]
