"""The tables of docs/api.md, made of the API's own description: `python -m docs.tables`.

In the page a table stands between `<!-- fields: POST /v1/chat/completions -->` (one or more
operations) or `<!-- errors -->`, and `<!-- end -->`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

from serving.app import create_app
from serving.errors import ErrorKind
from serving.protocols.openapi.document import make_document
from serving.settings import Settings

Json = dict[str, Any]

PAGE: Final = Path(__file__).parent / "api.md"

_REGION: Final = re.compile(
    r"(<!-- (fields|errors)(?:: ([^>]+))? -->\n).*?(<!-- end -->)", re.DOTALL
)
_LARGE: Final = 2**31 - 1


def describe() -> Json:
    """Returns the document of `/openapi.json` under the settings as they come."""
    settings = Settings()
    return make_document(create_app(settings).state.operations, settings, ())


def fill(page: str, document: Json) -> str:
    """Returns the page with its tables as the document has them."""
    known: dict[tuple[str, str, str], str] = {}

    def table(region: re.Match[str]) -> str:
        begin, kind, operations, end = region.groups()
        made = _errors() if kind == "errors" else _fields(operations.split(", "), document, known)
        return begin + made + end

    return _REGION.sub(table, page)


def bodies(operation: str, document: Json) -> list[Json]:
    """Returns the schemas of the bodies that an operation takes: `POST /v1/messages`."""
    method, path = operation.split()
    body = document["paths"][path][method.lower()].get("requestBody")
    if body is None:
        return []
    schema = body["content"]["application/json"]["schema"]
    return [_resolve(form, document) for form in schema.get("anyOf", [schema])]


def _fields(operations: list[str], document: Json, known: dict[tuple[str, str, str], str]) -> str:
    """Returns a table of the fields. Those that an earlier table tells, as in `known`, are named
    together with that table's first operation."""
    rows: dict[tuple[str, str, str], None] = {}
    for schema in (form for one in operations for form in bodies(one, document)):
        required = schema.get("required", ())
        for name, field in schema["properties"].items():
            value = _value(field, document) + (", required" if name in required else "")
            rows.setdefault((name, value, " ".join(field["description"].split())))
    told = [row for row in rows if row not in known]
    lines = ["| field | value | |", "|---|---|---|"]
    for (value, text), names in _grouped(sorted(told, key=_order)).items():
        lines.append(f"| {_listed(names)} | {value} | {_cell(text)} |")
    elsewhere: dict[str, list[str]] = {}
    for row in rows:
        if row in known:
            elsewhere.setdefault(known[row], []).append(row[0])
    for one, names in elsewhere.items():
        whole = {name for (name, _, _), place in known.items() if place == one} <= set(names)
        lines.append(f"| {'all others' if whole else _listed(names)} | | as in `{one}` |")
    known.update(dict.fromkeys(told, operations[0]))
    return "\n".join(lines) + "\n"


def _order(row: tuple[str, str, str]) -> int:
    """Puts what is required first, and what is only accepted or refused last."""
    _, value, text = row
    if value.endswith(", required"):
        return 0
    return 3 if text.startswith("Refused") else 2 if text.startswith("Accepted") else 1


def _grouped(rows: list[tuple[str, str, str]]) -> dict[tuple[str, str], list[str]]:
    """Returns the names of fields by value and text; fields of one text have one row."""
    values: dict[str, set[str]] = {}
    for _, value, text in rows:
        values.setdefault(text, set()).add(value)
    groups: dict[tuple[str, str], list[str]] = {}
    for name, value, text in rows:
        shown = value if len(values[text]) == 1 else ""
        groups.setdefault((shown, text), []).append(name)
    return groups


def _value(field: Json, document: Json) -> str:
    """Returns in words what a field may be, null apart."""
    forms = [
        _resolve(part, document)
        for form in field.get("anyOf", [field])
        for part in form.get("oneOf", [form])
    ]
    words = [_word(form) for form in forms if form.get("type") != "null"]
    return " or ".join(dict.fromkeys(word for word in words if word))


def _word(form: Json) -> str:
    if "enum" in form:
        return ", ".join(f"`{value}`" for value in form["enum"])
    if form["type"] == "array":
        return "list" + _bounds(form.get("minItems"), form.get("maxItems"))
    if form["type"] == "object":
        return "object" + _bounds(None, form.get("maxProperties"))
    least, most = form.get("minimum", form.get("exclusiveMinimum")), form.get("maximum")
    return str(form["type"]) + _bounds(least, most)


def _bounds(least: int | None, most: int | None) -> str:
    """Returns bounds in words, without those that are only a machine's."""
    if most is not None:
        return f", {least} to {most}" if least is not None else f", at most {most}"
    return f", from {least}" if least is not None and abs(least) < _LARGE else ""


def _resolve(schema: Json, document: Json) -> Json:
    """Returns the schema that a reference leads to, or the schema itself."""
    name = schema.get("$ref", "").removeprefix("#/components/schemas/")
    return document["components"]["schemas"][name] if name else schema


def _errors() -> str:
    rows = [
        f"| {kind.value.http_status} | `{kind.value.code}` | {kind.value.meaning} |\n"
        for kind in ErrorKind
        if kind is not ErrorKind.CLIENT_CLOSED  # nobody is there to read that one
    ]
    return "| status | `code` | |\n|---|---|---|\n" + "".join(rows)


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(fill(PAGE.read_text(), describe()))
