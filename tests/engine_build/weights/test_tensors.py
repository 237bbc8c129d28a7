"""A checkpoint over several files, and what can be wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from engine_build.failure import BuildError, ExitCode
from engine_build.weights import inventory, tensors
from engine_build.weights.tensor_file import Spec, open_file, write
from model_assets import manifest
from serving.boundary.engine import Architecture
from tests import parameters
from tests.engine_build.checkpoints import SMALL, make

FIRST, SECOND = "model-00000-of-00001.safetensors", "model-00001-of-00001.safetensors"


@pytest.mark.parametrize("name", ["gpt-oss-120b", "gpt-oss-20b"])
def test_the_inventory_is_what_the_manifest_counts(name: str) -> None:
    shape = manifest.read(name).architecture
    specs = inventory.checkpoint(shape)
    assert sum(spec.size_bytes for spec in specs.values()) == parameters.tensor_bytes(shape)
    assert len(specs) == 19 * shape.num_hidden_layers + 3


def test_tensors_come_from_the_file_that_holds_them(tmp_path: Path) -> None:
    held = make(tmp_path / "c")
    with tensors.open_checkpoint(tmp_path / "c") as opened:
        assert opened.specs == inventory.checkpoint(SMALL)
        for name, expected in held.items():
            assert b"".join(map(bytes, opened.stream(name))) == expected.tobytes()
        part = (slice(1, 3), slice(4, 9))
        found = b"".join(map(bytes, opened.stream("lm_head.weight", part)))
        assert found == opened.raw("lm_head.weight")[part].tobytes()


def test_one_file_needs_no_index(tmp_path: Path) -> None:
    held = make(tmp_path / "c", files=1)
    (tmp_path / "c" / tensors.INDEX_NAME).unlink()
    (tmp_path / "c" / "model-00000-of-00000.safetensors").rename(
        tmp_path / "c" / tensors.SINGLE_NAME
    )
    with tensors.open_checkpoint(tmp_path / "c") as opened:
        assert opened.specs.keys() == held.keys()


def test_a_sound_checkpoint_passes(tmp_path: Path) -> None:
    make(tmp_path / "c")
    names = Architecture.__struct_fields__
    architecture = Architecture(**{name: getattr(SMALL, name) for name in names})
    with tensors.open_checkpoint(tmp_path / "c") as opened:
        tensors.check(tmp_path / "c", opened, architecture)


def _drop_file(directory: Path) -> None:
    (directory / SECOND).unlink()


def _cut_file(directory: Path) -> None:
    path = directory / FIRST
    path.write_bytes(path.read_bytes()[:-1000])


def _edit_json(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        content = json.loads((directory / name).read_bytes())
        change(content)
        (directory / name).write_text(json.dumps(content))

    return edit


def _rewrite(change: Callable[[dict[str, Spec]], object]) -> Callable[[Path], None]:
    """Writes the first file again with other tensors, and the index to match."""

    def rewrite(directory: Path) -> None:
        with open_file(directory / FIRST) as file:
            specs = {name: entry.spec for name, entry in file.entries.items()}
        change(specs)
        write(
            directory / FIRST,
            specs,
            lambda name: [np.zeros(specs[name].size_bytes, np.uint8)],
        )
        index = json.loads((directory / tensors.INDEX_NAME).read_bytes())
        others = {n: f for n, f in index["weight_map"].items() if f != FIRST}
        index["weight_map"] = others | dict.fromkeys(specs, FIRST)
        (directory / tensors.INDEX_NAME).write_text(json.dumps(index))

    return rewrite


NORM = "model.layers.0.input_layernorm.weight"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_drop_file, f"{SECOND} is missing"),
        (_cut_file, f"{FIRST}: is cut short within model"),
        (
            _edit_json(tensors.INDEX_NAME, lambda c: c["weight_map"].update(extra=FIRST)),
            f"{FIRST}: has no tensor extra",
        ),
        (
            _edit_json(tensors.INDEX_NAME, lambda c: c["weight_map"].update({NORM: SECOND})),
            f"{FIRST}: has {NORM}, which",
        ),
        (
            _edit_json(tensors.INDEX_NAME, lambda c: c["weight_map"].update({NORM: "../x"})),
            "no weight_map from tensors to files beside it",
        ),
        (_edit_json(tensors.INDEX_NAME, lambda c: c.pop("weight_map")), "has no weight_map"),
        (
            _edit_json(tensors.CONFIG_NAME, lambda c: c.update(model_type="llama")),
            "config.json: model_type is 'llama', not 'gpt_oss'",
        ),
        (
            _edit_json(tensors.CONFIG_NAME, lambda c: c.update(num_local_experts=8)),
            "config.json: num_local_experts is 8, this model has 4",
        ),
        (
            _rewrite(lambda specs: specs.update({NORM: Spec("BF16", (65,))})),
            f"{NORM} is BF16 [65], it must be BF16 [64]",
        ),
        (
            _rewrite(lambda specs: specs.update({NORM: Spec("F32", (64,))})),
            f"{NORM} is F32 [64], it must be BF16 [64]",
        ),
        (_rewrite(lambda specs: specs.pop(NORM)), f"has no tensor {NORM}"),
        (
            _rewrite(lambda specs: specs.update(strange=Spec("U8", (1,)))),
            "has a tensor that GPT-OSS has not: strange",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, damage: Callable[[Path], None], words: str) -> None:
    make(tmp_path / "c")
    damage(tmp_path / "c")
    with (
        pytest.raises(BuildError) as info,
        tensors.open_checkpoint(tmp_path / "c") as opened,
    ):
        tensors.check(tmp_path / "c", opened, SMALL)
    assert words in str(info.value)
    assert str(tmp_path / "c") in str(info.value)
    assert info.value.advice
    assert info.value.exit_code in (ExitCode.DATA, ExitCode.MISSING)


def test_a_tensor_in_two_files_is_named(tmp_path: Path) -> None:
    make(tmp_path / "c")
    first, second = tmp_path / "c" / FIRST, tmp_path / "c" / SECOND
    second.write_bytes(first.read_bytes())
    with pytest.raises(BuildError, match=r"does not say it has|and so has"):
        tensors.open_checkpoint(tmp_path / "c").__enter__()


def test_another_number_of_layers_is_another_model(tmp_path: Path) -> None:
    make(tmp_path / "c")
    deeper = msgspec.structs.replace(SMALL, num_hidden_layers=4)
    with (
        tensors.open_checkpoint(tmp_path / "c") as opened,
        pytest.raises(BuildError, match="num_hidden_layers is 3, this model has 4"),
    ):
        tensors.check(tmp_path / "c", opened, deeper)
