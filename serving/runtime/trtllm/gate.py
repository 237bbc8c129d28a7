"""Whether an engine belongs on this machine: TensorRT-LLM's version, and the GPUs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from packaging.version import InvalidVersion, Version

from serving.engine import MANIFEST_NAME, Engine, EngineError

MINIMUM_VERSION = "1.3.0rc17"
"""The first with the fixes of NVIDIA's bulletin of July 2026: 12 CVEs, among them CVE-2026-24271
(fixed in rc15) and CVE-2026-47475 (rc16)."""

ACCEPT_VARIABLE = "GPT_OSS_ACCEPT_TRTLLM_VERSION"
"""Names one version that the deployer takes the responsibility for."""

WRONG_ON_SEVERAL_GPUS = frozenset({"1.3.0rc24"})
"""Versions whose release notes name severe loss of accuracy for "GPT-OSS W4" on several GPUs."""


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
            f"TensorRT-LLM {installed} has known vulnerabilities; {MINIMUM_VERSION} is the oldest "
            f"that this service runs. {advice}"
        )
    if installed in WRONG_ON_SEVERAL_GPUS and manifest.device.count > 1 and not accepted:
        raise EngineError(
            f"TensorRT-LLM {installed} gives GPT-OSS wrong answers on several GPUs, as its release "
            f"notes say. {advice}"
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
