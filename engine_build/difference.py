"""How two engines differ, in words."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from serving.boundary.engine import Engine, Golden

_APART = frozenset({"digest", "files", "golden"})


def differences(one: Engine, other: Engine) -> list[str]:
    """Returns a line for each field, file and golden answer that differs; none for equal engines.

    Fields are named as in engine.json, the first engine's value first.
    """
    fields = [_flat(msgspec.to_builtins(engine)) for engine in (one, other)]
    return [*_fields(*fields), *_files(one, other), *_golden(one, other)]


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of nested objects by dotted path; lists are leaves."""
    leaves: dict[str, Any] = {}
    for name, held in value.items():
        if not prefix and name in _APART:
            continue
        if isinstance(held, Mapping) and held:
            leaves |= _flat(held, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = held
    return leaves


def _fields(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(one.keys() | other.keys()):
        if name not in one:
            yield f"{name}: absent, then {_shown(other[name])}"
        elif name not in other:
            yield f"{name}: {_shown(one[name])}, then absent"
        elif one[name] != other[name]:
            yield f"{name}: {_shown(one[name])}, then {_shown(other[name])}"


def _shown(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _files(one: Engine, other: Engine) -> Iterator[str]:
    first, second = ({file.path: file for file in engine.files} for engine in (one, other))
    for path in sorted(first.keys() | second.keys()):
        if path not in first:
            yield f"{path}: only in the second, {second[path].size_bytes:,} bytes"
        elif path not in second:
            yield f"{path}: only in the first, {first[path].size_bytes:,} bytes"
        elif first[path].sha256 != second[path].sha256:
            sizes = first[path].size_bytes, second[path].size_bytes
            what = f"{sizes[0]:,} bytes, then {sizes[1]:,}" if sizes[0] != sizes[1] else "contents"
            yield f"{path}: {what}"


def _golden(one: Engine, other: Engine) -> Iterator[str]:
    first, second = ({golden.name: golden for golden in engine.golden} for engine in (one, other))
    for name in sorted(first.keys() | second.keys()):
        if name not in first or name not in second:
            yield f"golden.{name}: only in the {'second' if name not in first else 'first'}"
        elif first[name].prompt != second[name].prompt:
            yield f"golden.{name}: another prompt"
        elif first[name].tokens != second[name].tokens:
            yield f"golden.{name}: {_parting(first[name], second[name])}"


def _parting(one: Golden, other: Golden) -> str:
    same = equal_tokens(one.tokens, other.tokens)
    return f"another answer after {same} tokens ({len(one.tokens)}, then {len(other.tokens)})"


def equal_tokens(one: Sequence[int], other: Sequence[int]) -> int:
    """Returns after how many tokens two answers part."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
