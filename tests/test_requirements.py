"""The two lists of pinned packages: complete, consistent with pyproject.toml, free of hosts."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.commands import REPOSITORY

RUNTIME, DEVELOPMENT = "requirements.lock", "requirements-dev.lock"
ALONE = "requirements-nodeps.lock"
ENCODER = "requirements-encoder.lock"

OURS = {"benchmarks", "docs", "engine_build", "model_assets", "service", "serving", "tests"}
FROM_CONTAINER = {"tensorrt_llm", "xgrammar"}
ELSEWHERE = REPOSITORY / "tests" / "clients"
"""These run in an environment of their own, with a list of their own."""

IMPORTED_BY = {
    RUNTIME: ("engine_build", "model_assets", "serving", "service.py"),
    DEVELOPMENT: ("benchmarks", "deploy", "docs", "tests"),
}


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


def imported(roots: Iterable[str]) -> dict[str, Path]:
    """Returns the packages of others that these import, each with one file that does."""
    found: dict[str, Path] = {}
    for root in roots:
        top = REPOSITORY / root
        for path in [top] if top.is_file() else sorted(top.rglob("*.py")):
            if ELSEWHERE in path.parents:
                continue
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                    names = [node.module]
                found |= {name.partition(".")[0]: path for name in names}
    known = OURS | FROM_CONTAINER | sys.stdlib_module_names
    return {name: path for name, path in found.items() if name not in known}


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


@pytest.mark.parametrize("name", [RUNTIME, DEVELOPMENT])
def test_what_is_imported_is_asked_for_by_name(project: dict[str, list[str]], name: str) -> None:
    asked = {canonicalize_name(Requirement(text).name) for text in project[name]}
    distributions = metadata.packages_distributions()
    for module, path in imported(IMPORTED_BY[name]).items():
        by = {canonicalize_name(each) for each in distributions.get(module, [])}
        assert by & asked, f"{path.relative_to(REPOSITORY)} imports {module}"


def test_the_lists_hold_what_is_needed_and_no_more(project: dict[str, list[str]]) -> None:
    runtime = needed(project[RUNTIME])
    assert set(pins(RUNTIME)) == runtime
    assert set(pins(DEVELOPMENT)) == needed(project[DEVELOPMENT]) - runtime


def test_what_is_tested_is_what_is_pinned() -> None:
    pinned = pins(RUNTIME) | pins(ALONE) | pins(ENCODER) | pins(DEVELOPMENT)
    for package, version in pinned.items():
        assert metadata.version(package).split("+")[0] == version, package


def test_what_is_installed_alone_leaves_its_needs_out_of_the_running_service() -> None:
    alone = pins(ALONE) | pins(ENCODER)
    assert not alone.keys() & pins(RUNTIME).keys()
    # They would be hundreds of megabytes, of which nothing runs.
    assert not {"transformers", "triton"} & pins(RUNTIME).keys()
