"""The images that `bentoml build` describes: what they are based on, and what is put into them."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from engine_build.profiles import trtllm_fields
from tests.commands import REPOSITORY, bentoml

pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")

IMAGE = REPOSITORY / "deploy" / "image"
GPU, EMBEDDED = REPOSITORY / "bentofile.yaml", IMAGE / "embedded.yaml"

TENSORRT_LLM = (
    *("click>=8.4.2", "click-option-group>=0.5.3", "msgspec", "numpy<2.4,>=2.0.0", "openai"),
    *("nvidia-ml-py>=13", "packaging>=24.2", "prometheus-client", "psutil", "pydantic>=2.9.1"),
    *("pydantic-settings", "python-multipart", "pyzmq", "safetensors>=0.8.0", "starlette>=1.3.1"),
    *("tiktoken", "tornado>=6.5.6", "urllib3>=2.8.0", "uvicorn", "uvloop<0.23.0,>=0.19.0"),
    # transformers 5.5.4, which it pins, refuses to be imported with another.
    "huggingface-hub<2.0,>=1.5.0",
)
"""What TensorRT-LLM 1.4.0rc1 requires of packages that the service has too: the PKG-INFO of its
source distribution on the Python Package Index, names as this repository spells them. The index has
no later one: that the pinned version requires the same is inferred, and checked when an image is
built (deploy/image/join_base.py)."""

LEFT_TO_THE_BASE = {
    *("torch", "sympy", "mpmath", "networkx", "setuptools", "apache-tvm-ffi", "tokenizers")
}
BOUND_BY_TENSORRT_LLM = {"huggingface-hub", "numpy", "uvloop"}


@dataclass(frozen=True)
class Image:
    """What a bento says of its image."""

    dockerfile: str
    packages: str
    scripts: list[str]
    description: str
    source: Path


def pins(path: Path) -> dict[str, str]:
    """Returns the versions of a list by package."""
    lines = path.read_text(encoding="utf-8").splitlines()
    parts = (line.partition("==") for line in lines if not line.startswith("#"))
    return {package: version for package, _, version in parts}


def build(home: Path, *arguments: str) -> Image:
    """Builds a bento for real and reads what it says of its image."""
    built = bentoml(home, "build", str(REPOSITORY), "-o", "tag", *arguments)
    assert built.returncode == 0, built.stdout + built.stderr
    tag = built.stdout.strip().splitlines()[-1].removeprefix("__tag__:")
    path = home / "bentos" / tag.replace(":", "/")
    docker = path / "env" / "docker"
    return Image(
        (docker / "Dockerfile").read_text(encoding="utf-8"),
        (path / "env" / "python" / "requirements.txt").read_text(encoding="utf-8"),
        [script.read_text(encoding="utf-8") for script in docker.glob("script__*")],
        (path / "bento.yaml").read_text(encoding="utf-8"),
        path / "src",
    )


@pytest.fixture(scope="module")
def gpu(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The image of `bentoml build` as it comes."""
    return build(tmp_path_factory.mktemp("gpu"))


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The image for machines without a GPU."""
    where = ("-f", str(EMBEDDED), "--arg", "engine=/engine")
    return build(tmp_path_factory.mktemp("embedded"), *where)


def steps(image: Image) -> list[str]:
    """Returns what the Dockerfile does, an instruction a line."""
    joined = image.dockerfile.replace("\\\n", " ")
    return [line for line in joined.splitlines() if re.match(r"[A-Z]+ ", line)]


def place(lines: list[str], words: str) -> int:
    """Returns the place of the one line that holds these words."""
    found = [number for number, line in enumerate(lines) if words in line]
    assert len(found) == 1, (words, lines)
    return found[0]


def test_the_gpu_image_is_tensorrt_llms_release_of_the_version_it_was_written_for(
    gpu: Image,
) -> None:
    version = trtllm_fields.read().version
    assert f"FROM nvcr.io/nvidia/tensorrt-llm/release:{version} AS" in gpu.dockerfile


def test_the_gpu_image_joins_its_packages_to_the_bases_after_they_are_installed(gpu: Image) -> None:
    lines = steps(gpu)
    made = place(lines, "uv venv --python 3.12 /app/.venv")
    installed = place(lines, "pip install -r $BENTO_PATH/env/python/requirements.txt")
    joined = place(lines, "./env/docker/script__")
    assert made < installed < joined < place(lines, "COPY --chown=bentoml:bentoml . ./")
    assert gpu.scripts == [(IMAGE / "join_base.py").read_text(encoding="utf-8")]
    # The script runs with the environment's own interpreter.
    assert place(lines, "ENV PATH=/app/.venv/bin:${PATH}") < joined
    assert gpu.scripts[0].startswith("#!/usr/bin/env python\n")


def test_the_gpu_image_brings_no_torch(gpu: Image) -> None:
    installed = {line.partition("==")[0] for line in gpu.packages.splitlines()}
    assert "bentoml" in installed
    assert not installed & {"torch", "triton", "xgrammar", "transformers"}


def test_the_gpu_image_expects_its_engine_mounted_and_holds_no_weights(gpu: Image) -> None:
    described = yaml.safe_load(gpu.description)
    assert described["args"] == {"mount": "/engine"}
    assert not described["models"]
    assert not described["services"][0]["models"]
    assert sum(p.stat().st_size for p in gpu.source.rglob("*") if p.is_file()) < 20_000_000


def test_the_image_holds_the_tokenizers_ranks(gpu: Image, embedded: Image) -> None:
    for image in (gpu, embedded):
        ranks = image.source / "model_assets" / "tokenizer" / "o200k_base.tiktoken.xz"
        assert ranks.stat().st_size > 500_000


def test_the_gpu_list_is_the_services_but_for_what_tensorrt_llm_decides() -> None:
    service, here = pins(REPOSITORY / "requirements.lock"), pins(IMAGE / "trtllm.lock")
    assert service.keys() - here.keys() == LEFT_TO_THE_BASE
    assert not here.keys() - service.keys()
    other = {name for name, version in here.items() if service[name] != version}
    assert other == BOUND_BY_TENSORRT_LLM


def test_the_gpu_list_is_within_what_the_project_asks_for() -> None:
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        asked = [Requirement(text) for text in tomllib.load(file)["project"]["dependencies"]]
    here = pins(IMAGE / "trtllm.lock")
    for requirement in asked:
        if requirement.name not in LEFT_TO_THE_BASE:
            assert requirement.specifier.contains(here[requirement.name]), requirement


@pytest.mark.parametrize("text", TENSORRT_LLM)
def test_tensorrt_llm_takes_every_package_of_the_gpu_list(text: str) -> None:
    requirement = Requirement(text)
    version = pins(IMAGE / "trtllm.lock")[requirement.name]
    assert requirement.specifier.contains(version), f"{text}, pinned {version}"


def test_the_embedded_image_has_every_pinned_package(embedded: Image) -> None:
    assert "FROM python:3.11" in embedded.dockerfile
    listed = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8")
    assert embedded.packages.startswith(listed)  # BentoML adds itself once more
    alone = pins(REPOSITORY / "requirements-nodeps.lock")
    asked = re.findall(r"^uv pip install --no-deps (.*)$", embedded.scripts[0], re.MULTILINE)
    assert asked == [" ".join(f"{name}=={version}" for name, version in alone.items())]


def test_the_grammar_compiler_is_of_one_version_everywhere() -> None:
    script = (IMAGE / "join_base.py").read_text(encoding="utf-8")
    pinned = pins(REPOSITORY / "requirements.lock") | pins(REPOSITORY / "requirements-nodeps.lock")
    for name in ("apache-tvm-ffi", "xgrammar"):
        assert f'"{name}=={pinned[name]}"' in script


def test_both_images_hold_the_same_code(gpu: Image, embedded: Image) -> None:
    contents = [
        {path.relative_to(image.source) for path in image.source.rglob("*") if path.is_file()}
        for image in (gpu, embedded)
    ]
    assert contents[0] == contents[1]
    described = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in (GPU, EMBEDDED)]
    for key in ("service", "name", "include", "exclude", "envs"):
        assert described[0][key] == described[1][key]


def test_every_text_that_gives_a_container_gpus_gives_it_their_limits() -> None:
    """Host memory for suspended sequences has to be locked; NVIDIA's own texts have both limits."""
    found = 0
    for folder in (".", "docs", "deploy", "config"):
        for path in (REPOSITORY / folder).glob("*.*"):
            if path.suffix not in {".md", ".yaml", ".yml", ".sh"}:
                continue
            text = path.read_text(encoding="utf-8").replace("\\\n", " ")
            for line in re.findall(r"docker run .*--gpus.*", text):
                assert "--ulimit memlock=-1 --ulimit stack=67108864" in line, path
                found += 1
    assert found
    told = (REPOSITORY / "docs" / "images.md").read_text(encoding="utf-8")
    assert "ulimits: {memlock: -1, stack: 67108864}" in told
    assert "LimitMEMLOCK=infinity" in told
