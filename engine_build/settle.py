"""From the profile that a person wrote to the one that is built: purpose, plan and arguments."""

from __future__ import annotations

from engine_build import arguments, fetch, gpus, overlay, plan
from engine_build import profile as profiles
from engine_build.failure import BuildError, ExitCode
from engine_build.plan import Plan
from engine_build.profile import Profile


def settle(name: str, purpose: str | None) -> Profile:
    """Returns the profile with the overlay's values, and for TensorRT-LLM with every argument.

    Raises BuildError for what contradicts itself or does not fit on the GPUs.
    """
    profile = profiles.load(name)
    if purpose is not None:
        profile = overlay.apply(profile, purpose)
    if profile.runtime != "trtllm":
        return profile
    make_plan(profile)
    composed = arguments.compose(profile, gpus.find(profile.device.kind))
    return profile.model_copy(update={"arguments": composed})


def make_plan(profile: Profile) -> Plan:
    """Returns the memory plan of a profile for GPUs. Raises BuildError when it does not fit."""
    if profile.device.kind == "cpu":
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"{profile.name}: device.kind is cpu; memory is planned for GPUs",
        )
    shape = fetch.architecture(fetch.describe(profile))
    return plan.make(profile, shape, gpus.find(profile.device.kind))
