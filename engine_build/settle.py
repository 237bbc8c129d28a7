"""From the profile that a person wrote to the one that is built: purpose, plan and arguments."""

from __future__ import annotations

from dataclasses import dataclass

from engine_build import fetch
from engine_build.failure import BuildError, ExitCode
from engine_build.profiles import arguments, formats, gpus, overlay, plan, remedies
from engine_build.profiles import profile as profiles
from engine_build.profiles.plan import Plan
from engine_build.profiles.profile import PrecisionChange, Profile
from engine_build.proof import gate
from serving.engine import Architecture


@dataclass(frozen=True, slots=True)
class Settled:
    """What to build, and what its precision is compared with, if anything."""

    profile: Profile
    gate: gate.Wanted | None = None


def settle(name: str, purpose: str | None) -> Settled:
    """Returns the profile with the overlay's values, and for TensorRT-LLM with every argument.

    Raises BuildError for what contradicts itself or does not fit on the GPUs, in any precision
    that the build may need.
    """
    profile = load(name, purpose)
    limits = profile.gate
    asked = complete(profile)
    if limits is None:
        return Settled(asked)
    fallback = limits.fallback
    wanted = gate.Wanted(
        limits=limits,
        reference=complete(_changed(profile, limits.reference)),
        fallback=None if fallback is None else complete(_changed(profile, fallback)),
    )
    return Settled(asked, wanted)


def load(name: str, purpose: str | None) -> Profile:
    """Returns the profile as it is written, with the overlay's values. Raises BuildError."""
    profile = profiles.load(name)
    return profile if purpose is None else overlay.apply(profile, purpose)


def complete(profile: Profile) -> Profile:
    """Returns the profile with all of its runtime's arguments.

    Raises BuildError for a number format or a mesh that the runtime, the model or the GPU has not.
    """
    formats.check(profile)
    shape = fetch.architecture(fetch.describe(profile))
    plan.check_model(profile, shape)
    if profile.runtime != "trtllm":
        _check_ranks(profile, shape)
        return profile
    make_plan(profile)
    composed = arguments.compose(profile, gpus.find(profile.device.kind))
    return profile.model_copy(update={"arguments": composed})


def make_plan(profile: Profile) -> Plan:
    """Returns the memory plan of a profile for GPUs. Raises BuildError when it does not fit, with
    the changes that would make it."""
    if profile.device.kind == "cpu":
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"{profile.name}: device.kind is cpu; memory is planned for GPUs",
        )
    if profile.runtime != "trtllm":
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"{profile.name}: runtime is {profile.runtime}; memory is planned for TensorRT-LLM, "
            "which keeps the experts packed",
        )
    shape = fetch.architecture(fetch.describe(profile))
    gpu = gpus.find(profile.device.kind)
    try:
        return plan.make(profile, shape, gpu)
    except plan.DoesNotFitError as problem:
        found = remedies.remedies(profile, shape, gpu, gpus.read().values())
        raise BuildError(problem.exit_code, problem.message, remedies.advice(found)) from None


def _check_ranks(profile: Profile, shape: Architecture) -> None:
    """Raises BuildError for what an embedded engine of rank files cannot be."""
    if profile.mesh.tensor_parallel == 1:
        return
    # Here, because numpy takes a while and a build that has nothing to do needs none.
    from engine_build.weights import layout

    layout.check(shape, profile.mesh.tensor_parallel, profile.mesh.expert_parallel)
    where = f"{profile.name}: mesh.tensor_parallel = {profile.mesh.tensor_parallel}"
    if profile.device.kind != "cpu":
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"{where} with device.kind = {profile.device.kind}: the embedded runtime's ranks "
            "compute on CPUs",
            "Give device.kind: cpu, or runtime: trtllm",
        )
    if profile.gate is not None:
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"{where} with a gate: the gate asks a running engine, and the service runs none of "
            "rank files on the embedded runtime",
            "Leave gate out; the ranks' logits are compared with the whole model's",
        )


def _changed(profile: Profile, change: PrecisionChange) -> Profile:
    return profile.model_copy(update={"precision": change.of(profile.precision)})
