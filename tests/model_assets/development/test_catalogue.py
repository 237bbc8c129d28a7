"""The catalogue of tools: complete, consistent, and broken files are named."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import msgspec
import pytest

from model_assets.development.catalogue import SLOT, Catalogue, lines, read_catalogue
from model_assets.development.offers import Offer, offers
from serving.harmony.conversation import FunctionTool

JUNK = ("xylorimba",)


def test_every_slot_has_a_table(catalogue: Catalogue) -> None:
    for kind in catalogue.kinds:
        for template in kind.templates():
            for slot in SLOT.finditer(template):
                tables = kind.draws.get(slot[1], slot[1])
                for table in (tables,) if isinstance(tables, str) else tables:
                    assert table == "junk" or table in catalogue.tables, (kind.subject, table)


def test_what_an_answer_says_was_asked_or_returned(catalogue: Catalogue) -> None:
    """So it can be found in the conversation, and need not be known."""
    for kind in catalogue.kinds:
        asked = {slot[1] for ask in lines(kind.asks)[:1] for slot in SLOT.finditer(ask)}
        for line in lines(kind.results):
            result, answer = line.split(" => ")
            returned = {slot[1] for slot in SLOT.finditer(result)}
            assert {slot[1] for slot in SLOT.finditer(answer)} <= asked | returned, line


def test_what_a_call_gives_is_in_every_request(catalogue: Catalogue) -> None:
    for kind in catalogue.kinds:
        needed = {
            slot[1] for form in kind.forms for t in form.values() for slot in SLOT.finditer(t)
        }
        needed -= {slot for slot in needed if len(catalogue.tables.get(slot, "..")) == 1}
        for ask in lines(kind.asks):
            assert needed == {slot[1] for slot in SLOT.finditer(ask)}, ask


def test_names_belong_to_one_subject(catalogue: Catalogue) -> None:
    owners: dict[str, set[str]] = {}
    for kind in catalogue.kinds:
        for name in kind.names:
            owners.setdefault(name, set()).add(kind.subject)
    assert {name: found for name, found in owners.items() if len(found) > 1} == {}
    assert len({kind.subject for kind in catalogue.kinds}) >= 20


def test_arguments_have_the_types_of_the_schema(catalogue: Catalogue) -> None:
    rng = Random(4)
    types = {"string": str, "number": int, "integer": int}
    for kind in catalogue.kinds:
        for _ in range(8):
            offer = Offer(rng, catalogue, kind, JUNK)
            schema = offer.tool.parameters or {}
            for name, value in offer.use(rng).arguments.items():
                assert isinstance(value, types[schema["properties"][name]["type"]])


def test_tools_of_a_scene_do_not_compete(catalogue: Catalogue) -> None:
    rng = Random(1)
    for _ in range(200):
        chosen = offers(rng, catalogue, 4, JUNK)
        subjects = {offer.kind.subject for offer in chosen}
        assert len({offer.tool.name for offer in chosen}) == len(subjects) == 4
        assert "calculator" not in subjects or not subjects & {"add", "multiply"}


def test_the_same_seed_gives_the_same_tools(catalogue: Catalogue) -> None:
    def tools(seed: int) -> list[FunctionTool]:
        return [offer.tool for offer in offers(Random(seed), catalogue, 3, JUNK)]

    assert tools(3) == tools(3)
    assert tools(3) != tools(4)


def test_results_in_json_are_json(catalogue: Catalogue) -> None:
    rng = Random(2)
    for kind in catalogue.kinds:
        offer = Offer(rng, catalogue, kind, JUNK)
        for _ in range(20):
            result = offer.use(rng).result
            if result.startswith(("{", "[")):
                json.loads(result)


@pytest.mark.parametrize("content", ["- subject: x", "- {subject: x, colour: red}", "7"])
def test_a_broken_catalogue_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "values.yaml").write_text("city: [Paris]")
    (tmp_path / "tools.yaml").write_text(content)
    with pytest.raises(msgspec.ValidationError):
        read_catalogue(tmp_path)
