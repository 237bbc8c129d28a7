"""From the profile that a person wrote to the one that is built: purpose, plan and arguments."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from engine_build import fetch
from engine_build.failure import BuildError, ExitCode
from engine_build.profiles import (
    arguments,
    cpu_plan,
    experts,
    formats,
    gpus,
    overlay,
    plan,
    remedies,
    trtllm_fields,
)
from engine_build.profiles import profile as profiles
from engine_build.profiles.cpu_plan import CpuPlan
from engine_build.profiles.plan import Plan
from engine_build.profiles.profile import PrecisionChange, Profile
from engine_build.profiles.trtllm_fields import FieldList
from engine_build.proof import gate
from serving.boundary.engine import Architecture


@dataclass(frozen=True, slots=True)
class ResolvedProfile:
    """What to build, and what its precision is compared with, if anything.

    `notes` tell what of the profile is not available, and what is built instead.
    """

    profile: Profile
    gate: gate.PrecisionGate | None = None
    notes: tuple[str, ...] = ()


def resolve(name: str, purpose: str | None) -> ResolvedProfile:
    """Returns the profile with the overlay's values, and for TensorRT-LLM with every argument.

    Raises BuildError for what contradicts itself or does not fit on the GPUs, in any precision
    that the build may need.
    """
    profile = load(name, purpose)
    known = trtllm_fields.in_use() if profile.runtime == "trtllm" else None
    profile, notes = _available(profile, known)
    limits = profile.gate
    asked = complete(profile, known)
    if limits is None:
        return ResolvedProfile(asked, None, notes)
    wanted = gate.PrecisionGate(
        limits=limits,
        reference=complete(_changed(profile, limits.reference), known),
        fallbacks=tuple(complete(one, known) for one in _fallbacks(profile, limits.fallback)),
    )
    return ResolvedProfile(asked, wanted, notes)


def _available(profile: Profile, known: FieldList | None) -> tuple[Profile, tuple[str, ...]]:
    """Returns the profile that can be built, and notes on what was changed.

    Where TensorRT-LLM has no kernels for the activations on this GPU, those of the fallback are
    taken.
    """
    fallback = profile.gate and profile.gate.fallback
    if known is None or not fallback or fallback.activations is None:
        return profile, ()
    gpu = gpus.find(profile.device.kind)
    other = _changed(profile, PrecisionChange(activations=fallback.activations))
    if experts.computable(profile, gpu, known) or not experts.computable(other, gpu, known):
        return profile, ()
    return other, (
        f"{profile.name}: TensorRT-LLM {known.version} has no backend for precision.activations = "
        f"{profile.precision.activations} on {gpu.kind}; {fallback.activations} is built, KV cache "
        f"{profile.precision.kv_cache} stays",
    )


def _fallbacks(profile: Profile, change: PrecisionChange | None) -> Iterator[Profile]:
    """Yields the profile with one of the fallback's formats, then with two, at last with all.

    So a format that passes is kept where another fails.
    """
    if change is None:
        return
    asked = profile.precision.model_dump()
    parts = [
        (name, value)
        for name, value in change.model_dump(exclude_none=True).items()
        if value != asked[name]
    ]
    for count in range(1, len(parts) + 1):
        for chosen in itertools.combinations(parts, count):
            yield _changed(profile, PrecisionChange(**dict(chosen)))


def load(name: str, purpose: str | None) -> Profile:
    """Returns the profile as it is written, with the overlay's values. Raises BuildError."""
    profile = profiles.load(name)
    return profile if purpose is None else overlay.apply(profile, purpose)


def complete(profile: Profile, known: FieldList | None = None) -> Profile:
    """Returns the profile with all of its runtime's arguments, of the version that `known` lists.

    Raises BuildError for a number format or a mesh that the runtime, the model or the GPU
    does not support.
    """
    formats.check(profile)
    shape = fetch.architecture(fetch.describe(profile))
    plan.check_model(profile, shape)
    if profile.runtime != "trtllm":
        _check_ranks(profile, shape)
        return profile
    gpu = gpus.find(profile.device.kind)
    experts.check(profile, gpu, known)
    planned = make_plan(profile)
    composed = arguments.compose(profile, gpu, host_cache_bytes=planned.host_cache, known=known)
    return profile.model_copy(update={"arguments": composed})


def plan_cpu(profile: Profile) -> CpuPlan:
    """Returns the memory plan of a profile for a CPU. Raises BuildError."""
    described = fetch.describe(profile)
    fetched_bytes = sum(file.size_bytes for file in described.files)
    return cpu_plan.make(profile, fetch.architecture(described), fetched_bytes)


def building_bytes(wanted: ResolvedProfile) -> int:
    """Returns the memory of the largest engine that a build for a CPU runs. They run one at a time:
    the one that it is for, and those of the precision gate."""
    gate = wanted.gate
    runs = [wanted.profile, *((gate.reference, *gate.fallbacks) if gate else ())]
    return max(plan_cpu(profile).memory for profile in runs)


def cpu_lines(wanted: ResolvedProfile) -> list[str]:
    """Returns the plan for a CPU as lines for a person."""
    plan = plan_cpu(wanted.profile)
    return cpu_plan.lines(plan, building_bytes(wanted))


def make_plan(profile: Profile) -> Plan:
    """Returns the memory plan of a profile for GPUs. Raises BuildError when it does not fit, with
    the changes that would make it."""
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
    """Raises BuildError for rank files that the embedded runtime cannot run."""
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
