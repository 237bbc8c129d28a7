"""Which part of every tensor a rank holds: tensor parallel (TP) and expert parallel (EP).

There are TP ranks, and EP divides TP. Rank r holds attention part r of TP; of the experts it holds
part r % EP, and of their inner dimension part r // EP of TP / EP.

| tensor | cut along | into |
|---|---|---|
| q, k, v weight and bias, sinks | rows, whole heads | TP |
| o weight | columns, whole heads | TP |
| embedding, LM head | rows (vocabulary) | TP |
| gate_up blocks, scales, bias | experts; then rows, in pairs of gate and up | EP; TP / EP |
| down blocks, scales | experts; then columns, whole blocks of 32 | EP; TP / EP |
| down bias | experts | EP |
| norms, router, o bias | not cut: every rank has all of it | |

What is summed over ranks afterwards (attention's output, the experts' output) has its bias added
by one rank: o bias by rank 0, a down bias by the rank with inner part 0.

With more ranks than KV heads, each KV head is on as many ranks as it takes. Part i of n of a
length is [i * length // n, (i + 1) * length // n): parts differ by at most one, and the inner
dimension is cut at the same block in gate_up's rows as in down's columns. FP8 experts are cut
along experts only, because a scale belongs to a tile of 128 rows.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine_build.failure import BuildError, ExitCode
from engine_build.weights.inventory import EMBEDDING, HEAD, MXFP4_BLOCK, Sizes
from engine_build.weights.tensor_file import Spec
from serving.engines.embedded.place import Place

GATE_AND_UP = 2


Cut = tuple[slice, ...]
"""A slice for each axis that is cut, from the first; axes beyond are whole."""


def places(tensor_parallel: int, expert_parallel: int) -> list[Place]:
    """Returns the ranks of a mesh in order."""
    return [Place(tensor_parallel, expert_parallel, rank) for rank in range(tensor_parallel)]


def check(sizes: Sizes, tensor_parallel: int, expert_parallel: int) -> None:
    """Returns when a model can be cut so. Raises BuildError (CONFIGURATION) with the numbers."""
    heads, kv_heads = sizes.num_attention_heads, sizes.num_key_value_heads
    inner_blocks = sizes.intermediate_size // MXFP4_BLOCK
    problems = {
        f"mesh.expert_parallel = {expert_parallel} does not divide "
        f"mesh.tensor_parallel = {tensor_parallel}": tensor_parallel % expert_parallel,
        f"mesh.expert_parallel = {expert_parallel} does not divide "
        f"{sizes.num_local_experts} experts": sizes.num_local_experts % expert_parallel,
        f"mesh.tensor_parallel = {tensor_parallel} does not divide {heads} attention heads": heads
        % tensor_parallel,
        f"mesh.tensor_parallel = {tensor_parallel} and {kv_heads} KV heads: neither divides the "
        "other": tensor_parallel % kv_heads and kv_heads % tensor_parallel,
        f"mesh.tensor_parallel = {tensor_parallel} leaves a rank none of {inner_blocks} blocks "
        "of an expert's inner dimension": tensor_parallel // expert_parallel > inner_blocks,
    }
    for problem, wrong in problems.items():
        if wrong:
            raise BuildError(ExitCode.CONFIGURATION, problem, "Choose another mesh")


def cut(name: str, place: Place, sizes: Sizes) -> Cut:
    """Returns which part of a tensor is on a rank."""
    part = name.removeprefix("model.layers.").partition(".")[2]
    if name.startswith((EMBEDDING, HEAD)):
        return (_share(sizes.vocab_size, place.tensor_parallel, place.rank),)
    if part.startswith("mlp.experts."):
        return _experts(part.removeprefix("mlp.experts."), place, sizes)
    if part.startswith("self_attn."):
        return _attention(part.removeprefix("self_attn."), place, sizes)
    return ()


def _share(length: int, parts: int, index: int, unit: int = 1) -> slice:
    """Returns part `index` of `length` things of `unit` items each."""
    return slice(index * length // parts * unit, (index + 1) * length // parts * unit)


def _attention(part: str, place: Place, sizes: Sizes) -> Cut:
    heads = _share(sizes.num_attention_heads, place.tensor_parallel, place.rank)
    width = sizes.head_dim
    projection, _, kind = part.partition(".")
    if projection == "sinks":
        return (heads,)
    if projection == "o_proj":
        columns = slice(heads.start * width, heads.stop * width)
        # An INT8 output projection has a scale a row, which every rank needs.
        whole = kind in ("bias", "weight_scales")
        return () if whole else (slice(None), columns)
    if projection == "q_proj":
        return (slice(heads.start * width, heads.stop * width),)
    return (_kv_rows(place, sizes),)


def _kv_rows(place: Place, sizes: Sizes) -> slice:
    count, ranks = sizes.num_key_value_heads, place.tensor_parallel
    if ranks <= count:
        return _share(count, ranks, place.rank, sizes.head_dim)
    head = place.rank * count // ranks
    return slice(head * sizes.head_dim, (head + 1) * sizes.head_dim)


def _experts(part: str, place: Place, sizes: Sizes) -> Cut:
    experts = _share(sizes.num_local_experts, place.expert_parallel, place.expert_part)
    if place.inner_parallel == 1 or part == "down_proj_bias":
        return (experts,)
    if part.endswith(("_values", "_tile_scales")):
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"mesh: {place.tensor_parallel} tensor and {place.expert_parallel} expert parallel "
            "ranks cut an expert, and FP8 experts are not cut",
            "Make expert_parallel equal to tensor_parallel, or keep precision.weights: mxfp4",
        )
    blocks = _share(sizes.intermediate_size // MXFP4_BLOCK, place.inner_parallel, place.inner_part)
    if part.startswith("down_proj"):
        return (experts, slice(None), blocks)
    unit = GATE_AND_UP * MXFP4_BLOCK
    return (experts, slice(blocks.start * unit, blocks.stop * unit))


def size(spec: Spec, part: Cut) -> Spec:
    """Returns what a part of a tensor is."""
    shape = list(spec.shape)
    for axis, piece in enumerate(part):
        start, stop, _ = piece.indices(shape[axis])
        shape[axis] = stop - start
    return Spec(spec.dtype, tuple(shape))


def rank_specs(specs: Mapping[str, Spec], place: Place, sizes: Sizes) -> dict[str, Spec]:
    """Returns the tensors of one rank for those of the whole model."""
    return {name: size(spec, cut(name, place, sizes)) for name, spec in specs.items()}
