"""The tensors of a checkpoint, over all its files: found, checked, read as a stream.

Every way in which a checkpoint on disk can differ from what it should be is an error that names
the file and the tensor, before the first byte of a weight is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from engine_build.failure import BuildError, ExitCode
from engine_build.weights.inventory import FIELDS, Sizes
from engine_build.weights.inventory import checkpoint as expected_tensors
from engine_build.weights.tensor_file import PIECE_BYTES, Bytes, Spec, TensorFile, open_file, pieces

CONFIG_NAME = "config.json"
INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
SUFFIX = ".safetensors"


class Tensors:
    """The tensors of an open checkpoint by name. Use `open_checkpoint`."""

    def __init__(self, files: Mapping[str, TensorFile]) -> None:
        self._files = files

    @property
    def specs(self) -> dict[str, Spec]:
        """What every tensor is."""
        return {name: file.entries[name].spec for name, file in self._files.items()}

    def path(self, name: str) -> Path:
        """Returns the file that holds a tensor."""
        return self._files[name].path

    def raw(self, name: str) -> Bytes:
        """Returns the bytes of a tensor as (*shape, bytes of an item); a view of the file."""
        return self._files[name].raw(name)

    def release(self, name: str, start_bytes: int = 0, stop_bytes: int | None = None) -> None:
        """Gives the memory of a tensor, or of a part that is done with, back to the kernel."""
        self._files[name].release(name, start_bytes, stop_bytes)

    def stream(self, name: str, part: tuple[slice, ...] = ()) -> Iterator[Bytes]:
        """Yields the bytes of a part of a tensor in C order, and forgets them.

        `part` has a slice for each axis that is cut, from the first.
        """
        whole = self.raw(name)
        start, stop, _ = (part[0] if part else slice(None)).indices(len(whole))
        row_bytes = max(1, whole[:1].size)
        step = max(1, PIECE_BYTES // row_bytes)
        for row in range(start, stop, step):
            rows = slice(row, min(row + step, stop))
            yield from pieces(whole[(rows, *part[1:])])
            self.release(name, rows.start * row_bytes, rows.stop * row_bytes)


@contextmanager
def open_checkpoint(directory: Path) -> Iterator[Tensors]:
    """Maps every file of a checkpoint while the context lasts.

    Raises BuildError for a missing or damaged file, and for an index that says other than the
    files do.
    """
    index = read_index(directory)
    with ExitStack() as stack:
        files = [stack.enter_context(open_file(directory / name)) for name in _files(index)]
        found: dict[str, TensorFile] = {}
        for file in files:
            for name in file.entries:
                _check_indexed(directory, index, name, file.path, found)
                found[name] = file
        absent = sorted(set(index or {}) - set(found))
        if index and absent:
            raise BuildError(
                ExitCode.DATA,
                f"{directory / index[absent[0]]}: has no tensor {absent[0]}, which "
                f"{INDEX_NAME} says it has",
                "Fetch both files again",
            )
        yield Tensors(found)


def read_index(directory: Path) -> dict[str, str] | None:
    """Returns which file holds which tensor; None for a checkpoint of one file."""
    path = directory / INDEX_NAME
    if not path.exists():
        return None
    try:
        weight_map = json.loads(path.read_bytes())["weight_map"]
    except (ValueError, KeyError, TypeError):
        weight_map = None
    if not isinstance(weight_map, dict) or not all(
        isinstance(name, str) and Path(name).name == name for name in weight_map.values()
    ):
        raise BuildError(
            ExitCode.DATA,
            f"{path}: has no weight_map from tensors to files beside it",
            "Fetch this file again",
        )
    return weight_map


def index(weight_map: Mapping[str, str], size_bytes: int) -> bytes:
    """Returns the content of an index file."""
    content = {"metadata": {"total_size": size_bytes}, "weight_map": dict(weight_map)}
    return json.dumps(content).encode()


def _files(index: Mapping[str, str] | None) -> list[str]:
    return sorted(set(index.values())) if index is not None else [SINGLE_NAME]


def _check_indexed(
    directory: Path,
    index: Mapping[str, str] | None,
    name: str,
    path: Path,
    found: Mapping[str, TensorFile],
) -> None:
    if name in found:
        problem = f"{path}: has {name}, and so has {found[name].path}"
    elif index is not None and index.get(name) != path.name:
        problem = f"{path}: has {name}, which {INDEX_NAME} does not say it has"
    else:
        return
    raise BuildError(ExitCode.DATA, problem, "Fetch both files again")


def check(
    directory: Path, tensors: Tensors, sizes: Sizes, expected: Mapping[str, Spec] | None = None
) -> None:
    """Returns when the checkpoint holds exactly the tensors of this architecture.

    `expected` are those of converted weights, None those of published ones. Raises BuildError
    naming the file and the first tensor that is missing, of another dtype or shape, or none of
    GPT-OSS.
    """
    check_config(directory, sizes)
    wanted = expected_tensors(sizes) if expected is None else expected
    compare(directory, tensors.specs, wanted, tensors.path)


def compare(
    whole: Path,
    found: Mapping[str, Spec],
    expected: Mapping[str, Spec],
    path: Callable[[str], Path] | None = None,
) -> None:
    """Returns when the tensors of `whole`, a file or a directory, are the expected ones.

    `path` says which file of a directory holds a tensor. Raises BuildError naming the file and the
    tensor.
    """
    holder = path or (lambda _name: whole)
    for name, spec in expected.items():
        if name not in found:
            raise _unfit(whole, f"has no tensor {name}")
        if found[name] != spec:
            raise _unfit(holder(name), f"{name} is {found[name]}, it must be {spec}")
    strange = sorted(set(found) - set(expected))
    if strange:
        raise _unfit(holder(strange[0]), f"has a tensor that GPT-OSS has not: {strange[0]}")


def read_config(directory: Path) -> dict[str, Any]:
    """Returns config.json. Raises BuildError unless it is that of a GPT-OSS model."""
    path = directory / CONFIG_NAME
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise BuildError(ExitCode.MISSING, f"{path} is missing", "Fetch it") from None
    except ValueError:
        raise BuildError(ExitCode.DATA, f"{path}: is not JSON", "Fetch this file again") from None
    kind = config.get("model_type") if isinstance(config, dict) else None
    if kind != "gpt_oss":
        raise BuildError(
            ExitCode.DATA,
            f"{path}: model_type is {kind!r}, not 'gpt_oss'",
            "Give the directory of a GPT-OSS checkpoint",
        )
    checked: dict[str, Any] = config
    return checked


def check_config(directory: Path, sizes: Sizes) -> None:
    """Returns when config.json has the numbers of this architecture. Raises BuildError."""
    path, config = directory / CONFIG_NAME, read_config(directory)
    for field in FIELDS:
        wanted = getattr(sizes, field)
        if config.get(field) != wanted:
            raise BuildError(
                ExitCode.DATA,
                f"{path}: {field} is {config.get(field)}, this model has {wanted}",
                "Give the checkpoint that the profile names",
            )


def _unfit(path: Path, problem: str) -> BuildError:
    return BuildError(
        ExitCode.DATA, f"{path}: {problem}", "Give the checkpoint that the profile names"
    )
