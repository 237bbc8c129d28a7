"""The openai package's own tests of its resources, from its source distribution.

They send an example value for every field at once to a server that takes anything. What this
service refuses of that, and why, is listed: no other test may fail, and each of these must.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

FILES = (
    "chat/test_completions.py",
    "test_completions.py",
    "test_models.py",
    "test_responses.py",
    "responses/test_input_items.py",
    "responses/test_input_tokens.py",
)

CALL = r"test_(method|raw_response|streaming_response)"

DIFFERENCES: list[tuple[str, str, str]] = [
    (
        rf"chat\.test_completions::{CALL}_(retrieve|update|delete|list)(_with_all_params)?",
        "There is nothing at this address|This address does not take this method",
        "chat completions are not stored",
    ),
    (
        r"(chat\.)?test_completions::test_method_create_with_all_params_overload_\d",
        "'logit_bias': keys must be token ids",
        "the key of the example is a word",
    ),
    (
        rf"test_models::{CALL}_delete",
        "This address does not take this method",
        "the model of a running service cannot be deleted",
    ),
    (
        rf"test_responses::{CALL}_(retrieve|delete|cancel)(_overload_\d)?"
        rf"|responses\.test_input_items::{CALL}_list"
        r"|test_responses::test_method_retrieve_with_all_params_overload_2",
        "There is no such response here",
        "the id of the example was never given to a response",
    ),
    (
        r"test_responses::test_method_retrieve_with_all_params_overload_1",
        "'starting_after' goes with 'stream=true'",
        "the example asks for a place in a stream, without a stream",
    ),
    (
        r"responses\.test_input_items::test_method_list_with_all_params",
        "'limit' must be a number from 1 to 100",
        "the limit of the example is 0",
    ),
    (
        rf"test_responses::{CALL}_create_overload_\d",
        "'model': Field required",
        "the example names neither a model nor a prompt",
    ),
    (
        r"(test_responses::test_method_create|responses\.test_input_tokens::test_method_count)"
        r"_with_all_params(_overload_\d)?",
        r"'tools\[0\].async'",
        "the tool of the example goes on while the model does",
    ),
    (
        rf"test_responses::{CALL}_compact",
        "'input' holds nothing to compact",
        "the example has no conversation",
    ),
    (
        r"test_responses::test_method_compact_with_all_params",
        "'image': images are not supported",
        "the example sends an image",
    ),
    (
        rf"responses\.test_input_tokens::{CALL}_count",
        "'input' must not be empty",
        "the example has no conversation",
    ),
]
"""What a test is called, what it fails with, and why."""

Outcomes = dict[str, set[str | None]]
"""What each test failed with in its variants; None: it passed."""


@pytest.fixture(scope="module")
def outcomes(base_url: str, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """What became of each test, by the names of its module and function."""
    report = tmp_path_factory.mktemp("openai") / "report.xml"
    paths = [f"tests/api_resources/{name}" for name in FILES]
    options = ["-o", "addopts=", "-p", "no:cacheprovider", "--tb=no", f"--junitxml={report}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *paths],
        cwd=Path(os.environ["CLIENTS"]) / "openai",
        env={**os.environ, "TEST_API_BASE_URL": base_url},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found: Outcomes = {}
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 - of our own making
        module = case.get("classname", "").removeprefix("tests.api_resources.").rsplit(".", 1)[0]
        name = f"{module}::{case.get('name', '').split('[')[0]}"
        failure = case.find("failure")
        message = None if failure is None else failure.get("message")
        assert case.find("error") is None, case.find("error")
        found.setdefault(name, set()).add(message)
    return found


def test_no_test_fails_but_for_a_known_reason(outcomes: Outcomes) -> None:
    unknown = {
        name: message
        for name, messages in outcomes.items()
        for message in messages
        if message is not None and not explained(name, message)
    }
    assert unknown == {}
    assert sum(None in messages for messages in outcomes.values()) > 20


@pytest.mark.parametrize(
    ("pattern", "message", "why"), DIFFERENCES, ids=[d[2] for d in DIFFERENCES]
)
def test_what_is_said_to_differ_does(
    outcomes: Outcomes, pattern: str, message: str, why: str
) -> None:
    named = [name for name in outcomes if re.fullmatch(pattern, name)]
    assert named
    for name in named:
        assert all(said and re.search(message, said) for said in outcomes[name]), outcomes[name]


def explained(name: str, message: str) -> bool:
    """Returns whether the list has this failure."""
    return any(
        re.fullmatch(pattern, name) and re.search(expected, message)
        for pattern, expected, _ in DIFFERENCES
    )
