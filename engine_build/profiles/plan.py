"""The memory plan of an engine on its GPUs, before anything is fetched or built.

Weights and KV cache are computed; the rest are estimates, each with its source, which the first
start on a GPU has to confirm. TensorRT-LLM takes `free_memory_fraction` of what is free after the
weights and one step at full size; CUDA graphs are captured in what is left.
"""

from __future__ import annotations

import msgspec

from engine_build.failure import BuildError, ExitCode
from engine_build.profiles import architecture_bytes as parts
from engine_build.profiles import arguments
from engine_build.profiles.architecture_bytes import gb
from engine_build.profiles.gpus import MIB, Gpu
from engine_build.profiles.profile import Profile
from serving.boundary.engine import Architecture, Mesh

LENGTHS = (1024, 4096, 16384, 65536)
"""Sequence lengths, in tokens, for which concurrency is told, besides max_seq_len."""

CONTEXT_BYTES = 1536 * MIB
"""CUDA context, libraries and NCCL. In pull request 4497 of TensorRT-LLM 1.10 GiB are taken before
the model is."""

GRAPH_BYTES = 200 * MIB
"""A captured batch size; the text of `cuda_graph_config` says up to 200 MB."""

ATTENTION_WORKSPACE_BYTES = 512 * MIB
HIDDEN_ALIGNMENT, INNER_ALIGNMENT = 512, 128
"""To what the expert kernels of Blackwell round a matrix up (`MXFP4WeightTRTLLMGenFusedMoEMethod`
in fused_moe/quantization.py). Taken for every backend."""

_LOGIT_COPIES = 3
_HIDDEN_COPIES = 6


class DoesNotFitError(BuildError):
    """A profile that needs more memory than there is; the module `remedies` knows what helps."""

    def __init__(self, message: str) -> None:
        super().__init__(ExitCode.CONFIGURATION, message)


class Capacity(msgspec.Struct, frozen=True, kw_only=True):
    """How many sequences of a length the KV cache holds at once."""

    tokens: int
    windowed: int
    """Where sliding layers give their blocks back: TensorRT-LLM's cache manager V2."""
    whole: int
    """Where they keep everything."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes on the fullest rank, and what the KV cache holds."""

    profile: str
    gpu: str
    ranks: int
    memory: int
    attention: int
    experts: int
    embeddings: int
    context: int
    """Estimate, as are `padding`, `activations`, `workspace` and `cuda_graphs`."""
    padding: int
    """Of the experts' matrices, to what their kernels take."""
    activations: int
    workspace: int
    cuda_graphs: int
    kv_cache: int
    unused: int
    host_cache: int
    """Of pinned host memory, for sequences that are suspended. Not of the GPU's."""
    kv_blocks: int
    """Blocks over all layers, where every layer keeps everything."""
    capacity: tuple[Capacity, ...]


def make(profile: Profile, shape: Architecture, gpu: Gpu) -> Plan:
    """Returns the plan. Raises DoesNotFitError with the numbers, BuildError for another mistake."""
    mesh = Mesh(
        tensor_parallel=profile.mesh.tensor_parallel, expert_parallel=profile.mesh.expert_parallel
    )
    check_model(profile, shape)
    weights = parts.weights(shape, mesh)
    fixed = {
        "context": CONTEXT_BYTES,
        "padding": _padding(shape, mesh, weights.experts),
        "activations": _activations(profile, shape, mesh),
        "workspace": _workspace(profile, shape, mesh),
    }
    graphs = GRAPH_BYTES * len(profile.cuda_graphs.batch_sizes)
    free = gpu.memory_bytes - weights.total - sum(fixed.values())
    if free <= graphs:
        raise DoesNotFitError(
            f"{profile.name}: weights of {gb(weights.total)} a rank and "
            f"{gb(sum(fixed.values()) + graphs)} for a step and CUDA graphs leave nothing of "
            f"{gb(gpu.memory_bytes)} ({gpu.kind}) for a KV cache"
        )
    kv_cache = _kv_cache(profile, shape, mesh, free, graphs)
    unused = free - kv_cache - graphs
    block = profile.kv_cache.block_tokens
    block_bytes = block * shape.num_hidden_layers * _token_bytes(profile, shape, mesh)
    capacity = tuple(
        _capacity(profile, shape, mesh, kv_cache, tokens)
        for tokens in sorted({*LENGTHS, profile.limits.max_seq_len})
        if tokens <= profile.limits.max_seq_len
    )
    plan = Plan(
        profile=profile.name,
        gpu=gpu.kind,
        ranks=mesh.tensor_parallel,
        memory=gpu.memory_bytes,
        attention=weights.attention,
        experts=weights.experts,
        embeddings=weights.embeddings,
        cuda_graphs=graphs,
        kv_cache=kv_cache,
        unused=unused,
        host_cache=_host_cache(profile, shape, mesh, kv_cache),
        kv_blocks=kv_cache // block_bytes,
        capacity=capacity,
        **fixed,
    )
    _check_capacity(profile, plan)
    return plan


def lines(plan: Plan) -> list[str]:
    """Returns the plan as lines for a person."""
    told = [f"{plan.profile}: {plan.ranks} x {plan.gpu}, {gb(plan.memory)} each; on each rank:"]
    for name in ("attention", "experts", "embeddings"):
        told.append(f"  {name:<12} {gb(getattr(plan, name)):>9}")
    for name in ("padding", "context", "activations", "workspace", "cuda_graphs"):
        told.append(f"  {name:<12} {gb(getattr(plan, name)):>9}  estimate")
    told.append(f"  {'kv_cache':<12} {gb(plan.kv_cache):>9}  {plan.kv_blocks} blocks")
    told.append(f"  {'unused':<12} {gb(plan.unused):>9}")
    told.append(
        f"  {'host_cache':<12} {gb(plan.host_cache):>9}  pinned host memory for suspended "
        f"sequences, {gb(plan.host_cache * plan.ranks)} for all ranks"
    )
    for capacity in plan.capacity:
        told.append(
            f"  sequences of {capacity.tokens:>6} tokens: {capacity.windowed} at once "
            f"({capacity.whole} if sliding layers keep everything)"
        )
    return told


def _padding(shape: Architecture, mesh: Mesh, experts: int) -> int:
    """Returns the bytes that the expert kernels add to `experts`, at most."""
    inner = shape.intermediate_size // (mesh.tensor_parallel // mesh.expert_parallel)
    hidden_padded = -(-shape.hidden_size // HIDDEN_ALIGNMENT) * HIDDEN_ALIGNMENT
    inner_padded = -(-inner // INNER_ALIGNMENT) * INNER_ALIGNMENT
    return int(experts * (hidden_padded * inner_padded / (shape.hidden_size * inner) - 1))


def _activations(profile: Profile, shape: Architecture, mesh: Mesh) -> int:
    """Returns the bytes that a step of max_num_tokens needs at its peak.

    A few copies of the hidden state, the projections of one layer, and the expert layer with every
    token's choices on this rank: gathered input, gate and up, their product, the output.
    """
    tokens = profile.limits.max_num_tokens
    hidden = _HIDDEN_COPIES * tokens * shape.hidden_size
    heads = shape.num_attention_heads + 2 * shape.num_key_value_heads
    projections = 2 * tokens * heads * shape.head_dim // mesh.tensor_parallel
    cut = mesh.tensor_parallel // mesh.expert_parallel
    chosen = tokens * shape.num_experts_per_tok
    experts = chosen * (2 * shape.hidden_size + 3 * shape.intermediate_size // cut)
    return parts.BF16_BYTES * (hidden + projections + experts)


def _workspace(profile: Profile, shape: Architecture, mesh: Mesh) -> int:
    """Returns the bytes of attention's and the sampler's buffers, and of the all-reduce."""
    sampler = _LOGIT_COPIES * 4 * profile.limits.max_batch_size * shape.vocab_size
    reduce = 0
    if mesh.tensor_parallel > 1:
        reduce = 3 * parts.BF16_BYTES * profile.limits.max_num_tokens * shape.hidden_size
    return ATTENTION_WORKSPACE_BYTES + sampler + reduce


def _token_bytes(profile: Profile, shape: Architecture, mesh: Mesh) -> int:
    try:
        return parts.kv_token_bytes(shape, mesh, profile.precision.kv_cache)
    except KeyError:
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"{profile.name}: precision.kv_cache is {profile.precision.kv_cache}, which is no "
            "number format of the KV cache",
            "Give auto, bf16 or fp8",
        ) from None


def _kv_cache(profile: Profile, shape: Architecture, mesh: Mesh, free: int, graphs: int) -> int:
    """Returns the bytes of the cache. Raises BuildError when the graphs then have no space."""
    held = profile.kv_cache
    if held.max_tokens is not None:
        token_bytes = _token_bytes(profile, shape, mesh)
        wanted = held.max_tokens * shape.num_hidden_layers * token_bytes
        if wanted + graphs > free:
            raise DoesNotFitError(
                f"{profile.name}: kv_cache.max_tokens = {held.max_tokens} needs {gb(wanted)} a "
                f"rank; {gb(free)} are free, {gb(graphs)} of them for CUDA graphs"
            )
        return wanted
    fraction = held.free_memory_fraction or 0.0
    taken = int(free * fraction)
    if free - taken < graphs:
        raise DoesNotFitError(
            f"{profile.name}: kv_cache.free_memory_fraction = {fraction} of {gb(free)} free "
            f"leaves {gb(free - taken)} a rank; {len(profile.cuda_graphs.batch_sizes)} CUDA "
            f"graphs may need {gb(graphs)}"
        )
    return taken


def _host_cache(profile: Profile, shape: Architecture, mesh: Mesh, kv_cache: int) -> int:
    """Returns the bytes for suspended sequences, unless the profile's arguments give them.

    As much as can be suspended at once: what a full batch of the longest sequences needs beyond
    the GPU's cache. At least one such sequence, and no more than the GPU's cache, which is what
    TensorRT-LLM's cache manager V2 takes unasked.
    """
    if not arguments.manages_v2(profile):
        return 0
    own = (profile.arguments.get("kv_cache_config") or {}).get("host_cache_size")
    if own is not None:
        return int(own)
    one = _sequence_bytes(profile, shape, mesh, profile.limits.max_seq_len, windowed=True)
    return min(kv_cache, max(one, profile.limits.max_batch_size * one - kv_cache))


def _capacity(
    profile: Profile, shape: Architecture, mesh: Mesh, kv_cache: int, tokens: int
) -> Capacity:
    one, whole = (
        _sequence_bytes(profile, shape, mesh, tokens, windowed=windowed)
        for windowed in (True, False)
    )
    return Capacity(tokens=tokens, windowed=kv_cache // one, whole=kv_cache // whole)


def _sequence_bytes(
    profile: Profile, shape: Architecture, mesh: Mesh, tokens: int, *, windowed: bool
) -> int:
    return parts.sequence_bytes(
        shape,
        mesh,
        profile.precision.kv_cache,
        tokens=tokens,
        block_tokens=profile.kv_cache.block_tokens,
        windowed=windowed,
    )


def check_model(profile: Profile, shape: Architecture) -> None:
    """Raises BuildError for a mesh that does not cut the model, or more than its positions."""
    mesh, heads, experts = profile.mesh, shape.num_attention_heads, shape.num_local_experts
    for field, ranks, count, what in (
        ("expert_parallel", mesh.expert_parallel, experts, "experts"),
        ("tensor_parallel", mesh.tensor_parallel, heads, "attention heads"),
    ):
        if count % ranks:
            fits = [n for n in range(1, 2 * ranks) if count % n == 0]
            raise BuildError(
                ExitCode.CONFIGURATION,
                f"{profile.name}: mesh.{field} = {ranks} does not divide {count} {what}",
                f"Nearest are {_nearest(fits, ranks)}",
            )
    most = shape.max_position_embeddings
    if profile.limits.max_seq_len > most:
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"{profile.name}: limits.max_seq_len = {profile.limits.max_seq_len} is over the "
            f"model's {most} positions",
            f"Give at most {most}",
        )


def _nearest(fits: list[int], asked: int) -> str:
    """Returns the numbers around the one that was asked for, in words."""
    below = max((n for n in fits if n < asked), default=None)
    above = min((n for n in fits if n > asked), default=None)
    return " and ".join(str(n) for n in (below, above) if n is not None)


def _check_capacity(profile: Profile, plan: Plan) -> None:
    """Raises DoesNotFitError when the cache holds no sequence of max_seq_len."""
    if not plan.capacity[-1].windowed:
        raise DoesNotFitError(
            f"{profile.name}: a KV cache of {gb(plan.kv_cache)} a rank holds no sequence of "
            f"limits.max_seq_len = {profile.limits.max_seq_len}"
        )
