"""What is called of TensorRT-LLM, against the names and defaults that NVIDIA publishes.

calls.json holds them, each with the version whose page was read:
https://nvidia.github.io/TensorRT-LLM/VERSION/PAGE.html. `names_at` is a later version whose index
(llm-api/reference.html) has the same names.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.engines.trtllm.library import Library, Llm

CALLS: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("calls.json").read_text())


def parameters(call: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Returns the named parameters of a class or function, in order."""
    named = inspect.signature(call).parameters.values()
    return {one.name: one for one in named if one.name != "self" and one.kind != one.VAR_KEYWORD}


@pytest.mark.parametrize("name", CALLS)
def test_the_double_has_the_names_and_defaults_of_the_reference(
    library: Library, name: str
) -> None:
    owner, _, method = name.partition(".")
    classes: dict[str, Any] = {
        "LLM": library.llm,
        "SamplingParams": library.sampling_params,
        "GuidedDecodingParams": library.guided_decoding_params,
    }
    found = parameters(getattr(classes[owner], method) if method else classes[owner])
    assert list(found) == [*CALLS[name]["required"], *CALLS[name]["defaults"]]
    defaults = {key: one.default for key, one in found.items() if one.default is not one.empty}
    assert defaults == CALLS[name]["defaults"]


@pytest.mark.parametrize("name", [name for name in CALLS if "." in name])
def test_the_runtime_calls_nothing_else(name: str) -> None:
    called = parameters(getattr(Llm, name.partition(".")[2]))
    known = [*CALLS[name]["required"], *CALLS[name]["defaults"]]
    assert [one for one in called if one not in known] == []
    shared = {key: one.default for key, one in called.items() if key in CALLS[name]["defaults"]}
    assert shared == {key: CALLS[name]["defaults"][key] for key in shared}
