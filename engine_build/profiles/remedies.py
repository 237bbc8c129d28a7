"""What would make an engine fit: changes of a profile, each tried, one from each kind that fits.

The kinds come in the order of what they cost: another size of the cache, fewer graphs, smaller
steps, shorter sequences, a coarser cache, more GPUs, larger GPUs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from engine_build.failure import BuildError
from engine_build.profiles import experts, overlay, plan
from engine_build.profiles.gpus import Gpu
from engine_build.profiles.profile import Profile
from serving.boundary.engine import Architecture

LEAST_STEP_TOKENS = 512
LENGTH_STEP_TOKENS = 1024
FRACTIONS = tuple(percent / 100 for percent in range(5, 100, 5))
MOST_RANKS = 16


@dataclass(frozen=True, slots=True)
class Remedy:
    """A change, in a profile's words, and what it is a change to."""

    change: str
    profile: Profile
    gpu: Gpu


def remedies(profile: Profile, shape: Architecture, gpu: Gpu, known: Iterable[Gpu]) -> list[Remedy]:
    """Returns the changes that make a profile fit, each alone; `known` are the GPUs there are."""
    kinds = (
        _other_share(profile, gpu),
        _fewer_tokens(profile, shape, gpu),
        _fewer_graphs(profile, gpu),
        _smaller_steps(profile, gpu),
        _shorter_sequences(profile, gpu),
        _coarser_cache(profile, gpu),
        _more_gpus(profile, gpu),
        _larger_gpus(profile, gpu, known),
    )
    found = (next((one for one in kind if _fits(one, shape)), None) for kind in kinds)
    return [one for one in found if one is not None]


def advice(found: Iterable[Remedy]) -> str:
    """Returns the changes in one sentence."""
    changes = [one.change for one in found]
    if not changes:
        return "No single change that is known here makes it fit"
    if len(changes) == 1:
        return f"It fits with {changes[0]}"
    return f"It fits with any one of: {'; '.join(changes)}"


def _fits(one: Remedy, shape: Architecture) -> bool:
    try:
        experts.check(one.profile, one.gpu)
        plan.make(one.profile, shape, one.gpu)
    except BuildError:
        return False
    return True


def _changed(profile: Profile, gpu: Gpu, change: Mapping[str, Any], words: str) -> Iterator[Remedy]:
    """Yields the remedy, unless the profile would contradict itself."""
    try:
        yield Remedy(
            words, Profile.model_validate(overlay.merge(profile.model_dump(), change)), gpu
        )
    except ValidationError:
        return


def _smaller_steps(profile: Profile, gpu: Gpu) -> Iterator[Remedy]:
    tokens = profile.limits.max_num_tokens // 2
    while tokens >= LEAST_STEP_TOKENS:
        change = {"limits": {"max_num_tokens": tokens}}
        yield from _changed(profile, gpu, change, f"limits.max_num_tokens: {tokens}")
        tokens //= 2


def _fewer_graphs(profile: Profile, gpu: Gpu) -> Iterator[Remedy]:
    sizes = profile.cuda_graphs.batch_sizes
    for count in range(len(sizes) - 1, 0, -1):
        change = {"cuda_graphs": {"batch_sizes": sizes[:count]}}
        yield from _changed(profile, gpu, change, f"cuda_graphs.batch_sizes: {sizes[:count]}")


def _other_share(profile: Profile, gpu: Gpu) -> Iterator[Remedy]:
    share = profile.kv_cache.free_memory_fraction
    if share is None:
        return
    for other in sorted(FRACTIONS, key=lambda fraction: abs(fraction - share)):
        change = {"kv_cache": {"free_memory_fraction": other}}
        yield from _changed(profile, gpu, change, f"kv_cache.free_memory_fraction: {other}")


def _fewer_tokens(profile: Profile, shape: Architecture, gpu: Gpu) -> Iterator[Remedy]:
    """Yields the largest cache that fits, where the profile gives it in tokens."""
    held = profile.kv_cache.max_tokens
    if held is None:
        return
    low, high = 0, held
    best: list[Remedy] = []
    while high - low > profile.kv_cache.block_tokens:
        tokens = (low + high) // 2
        change = {"kv_cache": {"max_tokens": tokens}}
        tried = list(_changed(profile, gpu, change, f"kv_cache.max_tokens: {tokens}"))
        if not tried or _fits(tried[0], shape):
            low, best = tokens, tried
        else:
            high = tokens
    yield from best


def _shorter_sequences(profile: Profile, gpu: Gpu) -> Iterator[Remedy]:
    longest = profile.limits.max_seq_len // LENGTH_STEP_TOKENS * LENGTH_STEP_TOKENS
    for tokens in range(longest, 0, -LENGTH_STEP_TOKENS):
        change = {"limits": {"max_seq_len": tokens}}
        yield from _changed(profile, gpu, change, f"limits.max_seq_len: {tokens}")


def _coarser_cache(profile: Profile, gpu: Gpu) -> Iterator[Remedy]:
    if profile.precision.kv_cache != "fp8":
        change = {"precision": {"kv_cache": "fp8"}}
        yield from _changed(profile, gpu, change, "precision.kv_cache: fp8")


def _more_gpus(profile: Profile, gpu: Gpu) -> Iterator[Remedy]:
    ranks = profile.mesh.tensor_parallel * 2
    while ranks <= MOST_RANKS:
        mesh = {"tensor_parallel": ranks, "expert_parallel": ranks}
        change = {"mesh": mesh, "device": {"count": ranks}}
        words = f"{ranks} x {gpu.kind} (device.count, mesh.tensor_parallel, mesh.expert_parallel)"
        yield from _changed(profile, gpu, change, words)
        ranks *= 2


def _larger_gpus(profile: Profile, gpu: Gpu, known: Iterable[Gpu]) -> Iterator[Remedy]:
    larger = (other for other in known if other.memory_mib > gpu.memory_mib and other.sm >= gpu.sm)
    for other in sorted(larger, key=lambda one: one.memory_mib):
        yield from _changed(
            profile, other, {"device": {"kind": other.kind}}, f"device.kind: {other.kind}"
        )
