"""The memory and disk of an engine on a CPU, before anything is fetched or built.

Weights and KV cache are computed from what the embedded runtime keeps of each tensor; the rest
are estimates, checked against runs. The input table is mapped from its file, so the kernel may drop
it: it is shown and not counted.
"""

from __future__ import annotations

import msgspec

from engine_build.failure import BuildError, ExitCode
from engine_build.profiles import architecture_bytes as parts
from engine_build.profiles import formats
from engine_build.profiles.architecture_bytes import gb
from engine_build.profiles.profile import Profile
from serving.boundary.engine import Architecture, Limits
from serving.engines.embedded.capacity import pools

PROCESS_BYTES = 700_000_000
"""The service without a model: Python and torch, the API process, grammars, embeddings."""
MOST_UNPACKED_BYTES = 1 << 30
"""As in serving/engines/embedded/native/model.py: experts that take more in bfloat16 stay MXFP4."""
LOGIT_COPIES = 4
"""bfloat16, and float32 for the sampler, for each sequence of a batch."""


class CpuPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes in memory, and on the disk."""

    profile: str
    attention: int
    """With norms and routers."""
    experts: int
    head: int
    kv_cache: int
    step: int
    """The scratch buffers of a step of max_num_tokens, and the logits of a batch. Estimate."""
    loading: int
    """The pages of the largest tensor's file, beside its packed copy, while the engine loads."""
    processes: int
    """Estimate."""
    embeddings: int
    """The input table, in no sum."""
    needs_compiler: bool
    """Without one everything is held in `precision.activations`, which is several times as much."""
    fetched: int
    converted: int
    """What the build writes anew; the fetched files stay."""

    @property
    def memory(self) -> int:
        """All that counts."""
        weights = self.attention + self.experts + self.head
        return weights + self.kv_cache + self.step + self.loading + self.processes


def make(profile: Profile, shape: Architecture, fetched_bytes: int) -> CpuPlan:
    """Returns the plan. Raises BuildError (CONFIGURATION) for rank files: nothing serves them."""
    if profile.mesh.tensor_parallel > 1:
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"{profile.name}: mesh.tensor_parallel = {profile.mesh.tensor_parallel}: memory on a "
            "CPU is planned for one process, which is what the service runs",
        )
    kept = _RuntimeBytes(profile, shape)
    layers, hidden = shape.num_hidden_layers, shape.hidden_size
    return CpuPlan(
        profile=profile.name,
        attention=layers * kept.attention(),
        experts=layers * kept.experts(),
        head=kept.matrix(shape.vocab_size, hidden),
        kv_cache=kept.kv_cache(),
        step=kept.step(),
        loading=kept.loading(),
        processes=PROCESS_BYTES,
        embeddings=parts.BF16_BYTES * shape.vocab_size * hidden,
        needs_compiler=kept.native,
        fetched=fetched_bytes,
        converted=_converted_bytes(profile, shape),
    )


def lines(plan: CpuPlan, building_bytes: int) -> list[str]:
    """Returns the plan as lines for a person. `building_bytes` is the memory of its build."""
    told = [f"{plan.profile}: in memory, on a CPU"]
    for name, note in (
        ("attention", ""),
        ("experts", ""),
        ("head", ""),
        ("kv_cache", ""),
        ("step", "estimate"),
        ("loading", "beside the weights while they are loaded"),
        ("processes", "estimate: API, grammars, embeddings, torch"),
        ("memory", "together"),
        ("embeddings", "mapped from the file, not counted"),
    ):
        told.append(f"  {name:<12} {gb(getattr(plan, name)):>9}  {note}".rstrip())
    told.append(f"  {'building':<12} {gb(building_bytes):>9}  at most, with the precision gate")
    told.append("on the disk")
    told.append(f"  {'fetched':<12} {gb(plan.fetched):>9}")
    told.append(f"  {'converted':<12} {gb(plan.converted):>9}")
    return told


class _RuntimeBytes:
    """How many bytes the runtime keeps of each part."""

    def __init__(self, profile: Profile, shape: Architecture) -> None:
        self._profile = profile
        self._shape = shape
        precision = profile.precision
        # `auto` is the faster format of the machine that serves: the larger is counted.
        self.native = precision.activations == "bfloat16"
        self._number = parts.BF16_BYTES if self.native else 4
        self._codes = self.native and precision.weights == "int8"
        plain = shape.num_hidden_layers * self._expert_weights() * parts.BF16_BYTES
        self._packed = self.native and precision.weights != "fp8" and plain > MOST_UNPACKED_BYTES

    def matrix(self, rows: int, columns: int) -> int:
        """A matrix that INT8 converts."""
        return rows * columns + 4 * rows if self._codes else rows * columns * self._number

    def attention(self) -> int:
        """One layer's projections, router, biases, norms and sinks."""
        shape = self._shape
        hidden = shape.hidden_size
        width = shape.num_attention_heads * shape.head_dim
        rows = width + 2 * shape.num_key_value_heads * shape.head_dim
        router = shape.num_local_experts * hidden * self._number
        small = 4 * (rows + 3 * hidden + shape.num_local_experts + shape.num_attention_heads)
        return self.matrix(rows, hidden) + self.matrix(hidden, width) + router + small

    def experts(self) -> int:
        """One layer's experts."""
        shape = self._shape
        weight = parts.MXFP4_BYTES if self._packed else self._number
        biases = 4 * shape.num_local_experts * (2 * shape.intermediate_size + shape.hidden_size)
        return round(self._expert_weights() * weight) + biases

    def kv_cache(self) -> int:
        """Keys and values of all blocks of all layers."""
        shape, held, limits = self._shape, self._profile.kv_cache, self._profile.limits
        tokens = held.max_tokens or 2 * limits.max_seq_len
        lead_blocks = -(-(shape.sliding_window - 1) // held.block_tokens)
        sizes = pools(tokens, Limits(**limits.model_dump()), held.block_tokens, lead_blocks)
        sliding = parts.sliding_layers(shape)
        full = shape.num_hidden_layers - sliding
        blocks = full * sizes.full_blocks + sliding * sizes.sliding_blocks
        row = 2 * shape.num_key_value_heads * shape.head_dim * self._number
        return blocks * held.block_tokens * row

    def step(self) -> int:
        """As `lay_out` of serving/engines/embedded/native/model.h, a token."""
        shape, limits = self._shape, self._profile.limits
        hidden, inner = shape.hidden_size, shape.intermediate_size
        width = shape.num_attention_heads * shape.head_dim
        rows = width + 2 * shape.num_key_value_heads * shape.head_dim
        token = 6 * hidden + 4 * (shape.head_dim + rows + width + shape.num_local_experts)
        chosen = shape.num_experts_per_tok * (6 * hidden + 10 * inner)
        logits = limits.max_batch_size * shape.vocab_size * 4 * LOGIT_COPIES
        return limits.max_num_tokens * (token + chosen) + logits

    def loading(self) -> int:
        """The first matrices of a layer's experts."""
        return round(2 / 3 * self._expert_weights() * parts.MXFP4_BYTES)

    def _expert_weights(self) -> int:
        """One layer's."""
        shape = self._shape
        return 3 * shape.num_local_experts * shape.intermediate_size * shape.hidden_size


def _converted_bytes(profile: Profile, shape: Architecture) -> int:
    if not formats.converts(profile.precision.weights):
        return 0
    # Here, because numpy takes a while and a build that has nothing to do needs none.
    from engine_build.weights import contents

    return contents.size_bytes(contents.whole(shape, profile.precision.weights))
