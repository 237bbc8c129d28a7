from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from engine_build.failure import BuildError, ExitCode
from engine_build.profiles import trtllm_fields
from engine_build.profiles.trtllm_fields import Class
from engine_build.profiles.trtllm_fields import Field as ListedField


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Inner(Strict):
    fraction: float | None = Field(default=0.9, ge=0, le=1)
    policy: Literal["fcfs", "priority"] = "fcfs"


class EagleConfig(Strict):
    decoding_type: Literal["Eagle3"]
    max_draft_len: int


class NGramConfig(Strict):
    decoding_type: Literal["NGram"]
    max_matching_ngram_size: int = 3


class Arguments(Strict):
    """A model built as TorchLlmArgs is."""

    model: str
    interval: int = Field(default=1, gt=0)
    inner: Inner | None = None
    speculative: EagleConfig | NGramConfig | None = None
    loader: Any = None
    manager: bool | Literal["auto"] = "auto"


def test_a_pydantic_model_becomes_a_list() -> None:
    listed = trtllm_fields.flatten(Arguments.model_json_schema(), version="9", origin="a test")
    root = listed.classes["TorchLlmArgs"].fields
    assert root["model"] == ListedField(types=("string",), required=True)
    assert root["interval"] == ListedField(types=("integer",), minimum=1)
    assert root["inner"] == ListedField(types=("null", "object"), class_name="Inner")
    assert root["speculative"].class_name == "EagleConfig | NGramConfig"
    assert root["loader"] == ListedField()
    assert root["manager"] == ListedField(types=("boolean", "string"), values=("auto",))
    assert listed.classes["Inner"] == Class(
        {
            "fraction": ListedField(types=("null", "number"), minimum=0, maximum=1),
            "policy": ListedField(types=("string",), values=("fcfs", "priority")),
        }
    )
    joined = listed.classes["EagleConfig | NGramConfig"]
    assert set(joined.fields) == {"decoding_type", "max_draft_len", "max_matching_ngram_size"}
    assert not joined.open


def test_a_list_is_read_as_it_was_written(tmp_path: Path) -> None:
    listed = trtllm_fields.flatten(Arguments.model_json_schema(), version="9", origin="a test")
    path = tmp_path / "fields.json"
    path.write_bytes(trtllm_fields.encode(listed))
    assert trtllm_fields.read(path) == listed


def test_the_list_in_the_repository_is_canonical_and_says_where_it_is_from() -> None:
    listed = trtllm_fields.read()
    assert trtllm_fields.PATH.read_bytes() == trtllm_fields.encode(listed)
    assert "no installation has confirmed it" in listed.origin
    assert len(listed.classes["TorchLlmArgs"].fields) > 100


def test_an_installation_is_read_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, api = ModuleType("tensorrt_llm"), ModuleType("tensorrt_llm.llmapi")
    vars(package)["__version__"] = "9.9"
    vars(api)["TorchLlmArgs"] = Arguments
    monkeypatch.setitem(sys.modules, "tensorrt_llm", package)
    monkeypatch.setitem(sys.modules, "tensorrt_llm.llmapi", api)
    path = tmp_path / "fields.json"
    assert trtllm_fields.main(["--output", str(path)]) == 0
    listed = trtllm_fields.read(path)
    assert (listed.version, listed.origin) == ("9.9", "installation")


API = """
import pydantic
class MoeConfig(pydantic.BaseModel):
    backend: str = "CUTLASS"
class TorchLlmArgs(pydantic.BaseModel):
    moe_config: MoeConfig | None = None
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Returns a function that installs a package of TensorRT-LLM's name, with these arguments."""

    def make(version: str, api: str) -> None:
        metadata = tmp_path / f"tensorrt_llm-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Name: tensorrt_llm\nVersion: {version}\n")
        package = tmp_path / "tensorrt_llm"
        (package / "llmapi").mkdir(parents=True)
        (package / "__init__.py").write_text(f'__version__ = "{version}"')
        (package / "llmapi" / "__init__.py").write_text(api)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return make


def test_the_list_in_use_is_the_repositorys_unless_another_version_is_installed(
    install: Callable[..., None],
) -> None:
    listed = trtllm_fields.read()
    assert trtllm_fields.in_use() == listed
    install(listed.version, "raise RuntimeError('not to be imported')")
    assert trtllm_fields.in_use() == listed


def test_another_version_tells_its_own_arguments(install: Callable[..., None]) -> None:
    install("9.9", API)
    found = trtllm_fields.in_use()
    assert (found.version, found.origin) == ("9.9", "installation")
    assert set(found.classes["TorchLlmArgs"].fields) == {"moe_config"}
    assert "tensorrt_llm" not in sys.modules  # MPI must not start in the build's own process.


def test_an_installation_that_does_not_start_is_told(install: Callable[..., None]) -> None:
    install("9.9", "raise OSError('libcuda.so.1: cannot open shared object file')")
    with pytest.raises(BuildError, match=r"does not start here: OSError: libcuda\.so\.1") as caught:
        trtllm_fields.in_use()
    assert caught.value.exit_code is ExitCode.UNAVAILABLE


def test_a_schema_needs_a_version_and_an_origin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(Arguments.model_json_schema()))
    output = tmp_path / "fields.json"
    with pytest.raises(SystemExit):
        trtllm_fields.main(["--schema", str(path), "--output", str(output)])
    assert "--schema needs --version and --origin" in capsys.readouterr().err
    assert not output.exists()
