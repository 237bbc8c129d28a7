"""The names, types and values of TensorRT-LLM's arguments, as a list in the repository.

TensorRT-LLM cannot be installed where it has no GPU, so a profile is checked against this list, in
trtllm_fields.json. Where it is installed, this writes the list anew from the truth:

    python -m engine_build.profiles.trtllm_fields --output engine_build/profiles/trtllm_fields.json

Elsewhere it reads a JSON schema of the arguments (--schema, with --version and --origin).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from engine_build.failure import BuildError, ExitCode

PATH = Path(__file__).with_name("trtllm_fields.json")

ROOT = "TorchLlmArgs"


class Field(msgspec.Struct, frozen=True, omit_defaults=True, rename={"class_name": "class"}):
    """One argument. What is empty is not checked."""

    types: tuple[str, ...] = ()
    """JSON's names: boolean, integer, number, string, array, object, null."""
    values: tuple[str, ...] = ()
    """The only strings that are taken."""
    minimum: float | None = None
    maximum: float | None = None
    class_name: str = ""
    """The class of the fields that an object has."""
    required: bool = False


class Class(msgspec.Struct, frozen=True, omit_defaults=True):
    """A configuration class. `open`: its list is not complete, other fields are let through."""

    fields: dict[str, Field]
    open: bool = False


class FieldList(msgspec.Struct, frozen=True):
    """Every argument of one version."""

    version: str
    origin: str
    """Where the list was read. "installation" is the truth, anything else is second-hand."""
    root: str
    classes: dict[str, Class]


def read(path: Path = PATH) -> FieldList:
    """Returns the list in the repository."""
    return msgspec.json.decode(path.read_bytes(), type=FieldList)


def in_use() -> FieldList:
    """Returns the list of the TensorRT-LLM that is installed here, without importing it into this
    process; the list in the repository where none is, and for the version that it describes.

    Raises BuildError (UNAVAILABLE) when what is installed does not tell.
    """
    listed = read()
    try:
        if importlib.metadata.version("tensorrt_llm") == listed.version:
            return listed
    except importlib.metadata.PackageNotFoundError:
        return listed
    with tempfile.TemporaryDirectory() as room:
        path = Path(room) / PATH.name
        command = [sys.executable, "-m", __name__, "--output", str(path)]
        told = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=PATH.parents[2]
        )
        if told.returncode:
            last = (told.stderr.strip().splitlines() or ["it says nothing"])[-1]
            raise BuildError(
                ExitCode.UNAVAILABLE, f"TensorRT-LLM is installed, but does not start here: {last}"
            )
        return read(path)


def encode(fields: FieldList) -> bytes:
    """Returns the list as sorted JSON with one argument a line, fit for a diff."""
    classes = []
    for name, kind in sorted(fields.classes.items()):
        lines = ",\n".join(
            f"   {json.dumps(field)}: {json.dumps(_plain(spec))}"
            for field, spec in sorted(kind.fields.items())
        )
        opened = json.dumps(kind.open)
        body = f"{{\n{lines}\n  }}" if lines else "{}"
        classes.append(f'  {json.dumps(name)}: {{"open": {opened}, "fields": {body}}}')
    head = "".join(
        f" {json.dumps(key)}: {json.dumps(value)},\n"
        for key, value in (
            ("version", fields.version),
            ("origin", fields.origin),
            ("root", fields.root),
        )
    )
    joined = ",\n".join(classes)
    return f'{{\n{head} "classes": {{\n{joined}\n }}\n}}\n'.encode()


def _plain(field: Field) -> dict[str, Any]:
    """Returns a field as it is written: without what is empty, whole bounds as integers."""
    values: dict[str, Any] = msgspec.to_builtins(field)
    return {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in values.items()
    }


def flatten(schema: Mapping[str, Any], *, version: str, origin: str) -> FieldList:
    """Returns the list of a pydantic model's JSON schema (`model_json_schema()`)."""
    definitions = {ROOT: schema, **schema.get("$defs", {})}
    classes: dict[str, Class] = {}
    waiting = [ROOT]
    while waiting:
        name = waiting.pop()
        if name in classes:
            continue
        parts = [definitions[part] for part in name.split(" | ")]
        fields = {
            field: _field(spec, definitions, required=field in part.get("required", ()))
            for part in parts
            for field, spec in part.get("properties", {}).items()
        }
        opened = any(part.get("additionalProperties") is not False for part in parts)
        classes[name] = Class(fields, opened)
        waiting += [field.class_name for field in fields.values() if field.class_name]
    return FieldList(version, origin, ROOT, classes)


def installed() -> FieldList:
    """Returns the list of the TensorRT-LLM that is installed here. Raises ImportError without."""
    import tensorrt_llm
    from tensorrt_llm.llmapi import TorchLlmArgs

    schema = TorchLlmArgs.model_json_schema()
    return flatten(schema, version=str(tensorrt_llm.__version__), origin="installation")


def _field(spec: Mapping[str, Any], definitions: Mapping[str, Any], *, required: bool) -> Field:
    """Returns a field, its alternatives merged; an unconstrained alternative lifts the check."""
    branches = list(_branches(spec, definitions))
    names = sorted({branch["name"] for branch in branches if branch.get("name")})
    types = sorted({kind for branch in branches for kind in branch["types"]})
    unknown = any(not branch["types"] for branch in branches)
    strings = [branch for branch in branches if "string" in branch["types"]]
    closed = bool(strings) and all(branch.get("values") for branch in strings)
    return Field(
        types=() if unknown else tuple(types),
        values=tuple(dict.fromkeys(v for b in strings for v in b["values"])) if closed else (),
        minimum=_bound(branches, "minimum"),
        maximum=_bound(branches, "maximum"),
        class_name=" | ".join(names),
        required=required,
    )


def _branches(spec: Mapping[str, Any], definitions: Mapping[str, Any]) -> Sequence[dict[str, Any]]:
    """Returns the alternatives of a field: the types, values, bounds and class of each."""
    for key in ("anyOf", "oneOf", "allOf"):
        if key in spec:
            return [each for part in spec[key] for each in _branches(part, definitions)]
    if "$ref" in spec:
        name = spec["$ref"].rpartition("/")[2]
        target = definitions[name]
        if "enum" in target or "const" in target:
            return _branches(target, definitions)
        return [{"name": name, "types": ["object"]}]
    values = spec.get("enum", [spec["const"]] if "const" in spec else [])
    strings = [value for value in values if isinstance(value, str)]
    kinds = spec.get("type", ["string"] if strings else [])
    return [
        {
            "types": [kinds] if isinstance(kinds, str) else list(kinds),
            "values": strings,
            "minimum": spec.get("minimum", _next(spec, "exclusiveMinimum", 1)),
            "maximum": spec.get("maximum", _next(spec, "exclusiveMaximum", -1)),
        }
    ]


def _next(spec: Mapping[str, Any], name: str, step: int) -> float | None:
    """Returns an excluded bound as an included one; of a fraction, which has none, the bound."""
    bound: float | None = spec.get(name)
    return bound + step if bound is not None and spec.get("type") == "integer" else bound


def _bound(branches: Sequence[Mapping[str, Any]], name: str) -> float | None:
    return next((b[name] for b in branches if b.get(name) is not None), None)


def main(arguments: list[str]) -> int:
    """Writes the list; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="engine_build.profiles.trtllm_fields", description=__doc__
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--schema", type=Path, help="a JSON schema, instead of an installation")
    parser.add_argument("--version", help="the version that the schema describes")
    parser.add_argument("--origin", help="where the schema comes from")
    options = parser.parse_args(arguments)
    if options.schema is None:
        fields = installed()
    elif not options.version or not options.origin:
        parser.error("--schema needs --version and --origin")
    else:
        schema = json.loads(options.schema.read_text(encoding="utf-8"))
        fields = flatten(schema, version=options.version, origin=options.origin)
    options.output.write_bytes(encode(fields))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
