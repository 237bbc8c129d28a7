"""Whether an engine belongs on this machine: TensorRT-LLM's version, and the GPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from packaging.version import InvalidVersion, Version

from serving.boundary.engine import MANIFEST_NAME, Engine, EngineError

MINIMUM_VERSION = "1.3.0rc29"
"""The first that came out (29 September 2026) after the fixes that this service rests on: a grammar
without a next token ends one request and not every rank (pull request 18896), a request's own seed
is used (17172), ranks are added up in float32 (16753); and those of NVIDIA's bulletin of July 2026,
12 CVEs, in 1.3.0rc17. That the branch of this release holds them was inferred from their dates."""

ACCEPT_VARIABLE = "GPT_OSS_ACCEPT_TRTLLM_VERSION"
"""Names one version that the deployer takes the responsibility for."""


def check_version(manifest: Engine, installed: str, environment: Mapping[str, str]) -> None:
    """Raises EngineError unless this is the engine's version, and a version without known holes."""
    try:
        version = Version(installed)
    except InvalidVersion:
        raise EngineError(f"TensorRT-LLM says that its version is {installed!r}") from None
    accepted = environment.get(ACCEPT_VARIABLE) == installed
    advice = (
        "Use a newer release container, or set "
        f"{ACCEPT_VARIABLE}={installed} to run it all the same"
    )
    if version < Version(MINIMUM_VERSION) and not accepted:
        raise EngineError(
            f"TensorRT-LLM {installed} lacks fixes of safety and of answers; {MINIMUM_VERSION} is "
            f"the oldest that this service runs. {advice}"
        )
    if manifest.runtime_version != installed:
        raise EngineError(
            f"{MANIFEST_NAME}: runtime_version is {manifest.runtime_version}, TensorRT-LLM here is "
            f"{installed}; tuned kernels and arguments belong to one version. Build the engine "
            "again, or use the container that it was built in"
        )


def check_devices(manifest: Engine, names: Sequence[str]) -> None:
    """Raises EngineError unless the first GPUs seen are of the engine's kind and enough."""
    wanted = manifest.device
    if len(names) < wanted.count:
        raise EngineError(
            f"{MANIFEST_NAME}: device.count is {wanted.count}, this process sees {len(names)} "
            f"GPUs{': ' + ', '.join(names) if names else ''}"
        )
    other = [name for name in names[: wanted.count] if name != wanted.kind]
    if other:
        raise EngineError(
            f"{MANIFEST_NAME}: device.kind is {wanted.kind}, here is {other[0]}; what was tuned "
            "for one kind of GPU is slow or wrong on another. Build the engine on this one"
        )
