"""The two lists of pinned packages: complete, consistent with pyproject.toml, free of hosts."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.commands import REPOSITORY

RUNTIME, DEVELOPMENT = "requirements.lock", "requirements-dev.lock"
ALONE = "requirements-nodeps.lock"


def pins(name: str) -> dict[str, str]:
    """Returns the versions of a list by package."""
    found = {}
    for line in (REPOSITORY / name).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            package, separator, version = line.partition("==")
            assert separator, f"{name}: {line} is no pin"
            assert version.replace(".", "").isalnum(), f"{name}: {line} is no plain version"
            assert canonicalize_name(package) == package, f"{name}: {line}"
            found[package] = version
    return found


def needed(requirements: Iterable[str]) -> set[str]:
    """Returns the packages that these need here, all the way down, by what is installed."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in requirements]
    seen: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        found.add(canonicalize_name(requirement.name))
        extras = {"", *requirement.extras}
        for text in metadata.requires(requirement.name) or ():
            child = Requirement(text)
            marker = child.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                child.marker = None
                waiting.append(child)
    return found


@pytest.fixture(scope="module")
def project() -> dict[str, list[str]]:
    """The packages that pyproject.toml asks for, by list."""
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        table = tomllib.load(file)["project"]
    return {
        RUNTIME: table["dependencies"],
        DEVELOPMENT: table["dependencies"] + table["optional-dependencies"]["dev"],
    }


@pytest.mark.parametrize("name", [RUNTIME, DEVELOPMENT])
def test_what_the_project_asks_for_is_pinned_in_the_range_it_names(
    project: dict[str, list[str]], name: str
) -> None:
    pinned = pins(RUNTIME) | (pins(DEVELOPMENT) if name == DEVELOPMENT else {})
    for text in project[name]:
        requirement = Requirement(text)
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{text}, pinned {version}"


def test_the_lists_hold_what_is_needed_and_no_more(project: dict[str, list[str]]) -> None:
    runtime = needed(project[RUNTIME])
    assert set(pins(RUNTIME)) == runtime
    assert set(pins(DEVELOPMENT)) == needed(project[DEVELOPMENT]) - runtime


def test_what_is_tested_is_what_is_pinned() -> None:
    for package, version in (pins(RUNTIME) | pins(ALONE) | pins(DEVELOPMENT)).items():
        assert metadata.version(package).split("+")[0] == version, package


def test_what_is_installed_alone_leaves_its_needs_out_of_the_running_service() -> None:
    alone = pins(ALONE)
    assert not alone.keys() & pins(RUNTIME).keys()
    # They would be hundreds of megabytes, of which nothing runs.
    assert not {"transformers", "triton"} & pins(RUNTIME).keys()
