"""The catalogue of tools that the stand-in can call, as `tools/*.yaml` describes them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec
import yaml

CATALOGUE_PATH: Final = Path(__file__).with_name("tools")
VALUES_NAME: Final = "values.yaml"
SLOT: Final = re.compile(r"<([a-z_]+)(?:\.(given|text))?>")

Value = str | int
Table = Mapping[str, Value]
"""What is said -> what is given."""


class Option(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A parameter that a tool may have and a request may name."""

    keys: tuple[str, ...]
    table: str
    said: str
    """What a request that names it says in addition."""
    enum: bool = False


class Kind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool in its variants, and what users say who need it."""

    subject: str
    names: tuple[str, ...]
    descriptions: str
    forms: tuple[dict[str, str], ...]
    """Each is one set of parameters, with the value of each as a template."""
    gist: str
    asks: str
    results: str
    """Lines `result => answer`."""
    weight: float = 1.0
    excludes: tuple[str, ...] = ()
    """Subjects that would answer the same requests."""
    draws: dict[str, str | tuple[str, ...]] = {}
    """Slots that are not named after their table, and the tables they draw from."""
    notes: dict[str, tuple[str, ...]] = {}
    """Descriptions of parameters."""
    options: tuple[Option, ...] = ()

    def templates(self) -> tuple[str, ...]:
        """Returns all templates whose slots a request needs."""
        forms = (text for form in self.forms for text in form.values())
        return (self.gist, self.asks, self.results, *forms)


class Catalogue(msgspec.Struct, frozen=True):
    """All kinds of tools and the tables that their requests draw from."""

    kinds: tuple[Kind, ...]
    tables: dict[str, Table]

    def draw(self, rng: Random, kind: Kind, junk: Sequence[str]) -> Drawn:
        """Returns one value for every slot of the kind; `junk` is where <junk> comes from."""
        slots = sorted({m[1] for text in kind.templates() for m in SLOT.finditer(text)})
        drawn: dict[str, tuple[str, Value]] = {}
        for slot in slots:
            if slot == "junk":
                continue
            tables = kind.draws.get(slot, slot)
            name = tables if isinstance(tables, str) else rng.choice(tables)
            taken = {given for _, given in drawn.values() if isinstance(given, str)}
            said, given = _row(rng, self.tables[name])
            while given in taken:
                said, given = _row(rng, self.tables[name])
            drawn[slot] = (said, given)
        return Drawn(drawn, lambda: rng.choice(junk))


class Drawn(msgspec.Struct, frozen=True):
    """The values of one request."""

    values: dict[str, tuple[str, Value]]
    junk: Callable[[], str]

    def fill(self, template: str) -> str:
        """Returns the template with its slots filled."""
        return SLOT.sub(self._slot, template)

    def value(self, template: str) -> Value:
        """Returns the filled template; a slot alone keeps its type."""
        whole = SLOT.fullmatch(template)
        if whole and whole[2] != "text" and isinstance(self.values[whole[1]][1], int):
            return self.values[whole[1]][1]
        return self.fill(template)

    def _slot(self, match: re.Match[str]) -> str:
        if match[1] == "junk":
            return self.junk()
        said, given = self.values[match[1]]
        return str(given) if match[2] else said


def lines(block: str) -> list[str]:
    """Returns the lines of a block of alternatives."""
    return block.strip().splitlines()


def read_catalogue(path: Path = CATALOGUE_PATH) -> Catalogue:
    """Returns the catalogue in a directory. Raises OSError, or ValueError naming what is wrong."""
    tables = {name: _table(rows) for name, rows in _load(path / VALUES_NAME).items()}
    kinds: list[Kind] = []
    for file in sorted(path.glob("*.yaml")):
        if file.name != VALUES_NAME:
            kinds += msgspec.convert(_load(file), tuple[Kind, ...])
    return Catalogue(tuple(kinds), tables)


def _load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _table(rows: Any) -> Table:
    if isinstance(rows, dict):
        return rows
    if isinstance(rows, str):
        first, last = map(int, rows.split(".."))
        rows = range(first, last + 1)
    return {str(row): row for row in rows}


def _row(rng: Random, table: Table) -> tuple[str, Value]:
    return rng.choice(tuple(table.items()))
