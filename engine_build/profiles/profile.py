"""An engine profile: what to build, for which device, with which limits. See config/engines/."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from engine_build.failure import BuildError, ExitCode
from engine_build.profiles import document

PROFILES = Path(__file__).resolve().parents[2] / "config" / "engines"

Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]


class Section(BaseModel):
    """A part of a profile: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Precision(Section):
    """Number formats. The names are the runtime's; the build does not translate them."""

    weights: str
    activations: str
    kv_cache: str = "auto"


class PrecisionChange(Section):
    """Other number formats for the same engine; what is left out stays."""

    weights: str | None = None
    activations: str | None = None
    kv_cache: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.weights is None and self.activations is None and self.kv_cache is None:
            raise ValueError("give one of weights, activations and kv_cache, or more")
        return self

    def of(self, asked: Precision) -> Precision:
        """Returns the formats after the change."""
        given = {name: value for name, value in self.model_dump().items() if value is not None}
        return asked.model_copy(update=given)


class GateLimits(Section):
    """How far the engine may be from the reference precision, over the build's questions."""

    least_agreement: Annotated[float, Field(gt=0, le=1)]
    """Share of positions with the same likeliest token."""
    most_divergence: Annotated[float, Field(gt=0)]
    """Mean Kullback-Leibler divergence in nats."""
    most_lost: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Share of the known answers' tokens that the reference gives and the engine does not, less
    those that the engine alone gives."""


class Gate(GateLimits):
    """The precision to compare with, and what to take when the asked-for one does not pass.

    Of a fallback with several formats, each is tried alone before all are taken.
    """

    reference: PrecisionChange
    fallback: PrecisionChange | None = None


class Mesh(Section):
    """Ranks that share the model."""

    tensor_parallel: Count = 1
    expert_parallel: Count = 1


class Limits(Section):
    """What one step (`max_num_tokens`, `max_batch_size`) and one sequence may hold."""

    max_batch_size: Count
    max_num_tokens: Count
    max_seq_len: Count

    @model_validator(mode="after")
    def _steps_hold_a_batch(self) -> Self:
        if self.max_num_tokens < self.max_batch_size:
            raise ValueError(
                f"max_num_tokens is {self.max_num_tokens}: a step must hold one token of each of "
                f"max_batch_size = {self.max_batch_size} sequences"
            )
        return self


class KvCache(Section):
    """Either a number of tokens, or a fraction of the memory that the weights leave."""

    block_tokens: Count = 32
    max_tokens: Count | None = None
    free_memory_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    block_reuse: bool = True

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.max_tokens is None) == (self.free_memory_fraction is None):
            raise ValueError("give one of max_tokens and free_memory_fraction")
        return self


class CudaGraphs(Section):
    """Decode batch sizes to capture, ascending; `padding` rounds a batch up to the next one."""

    batch_sizes: list[Count] = []
    padding: bool = True

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if self.batch_sizes != sorted(set(self.batch_sizes)):
            raise ValueError("batch_sizes must ascend without repetition")
        return self


class Device(Section):
    """`cpu`, or a GPU's product name as NVML gives it, and how many."""

    kind: str
    count: Count = 1


class Profile(Section):
    """One engine. `checkpoint` names a manifest in model_assets/checkpoints/."""

    name: Name
    checkpoint: Name
    runtime: Literal["trtllm", "embedded"]
    device: Device
    precision: Precision
    mesh: Mesh = Mesh()
    limits: Limits
    kv_cache: KvCache
    cuda_graphs: CudaGraphs = CudaGraphs()
    gate: Gate | None = None
    """None: the precision is taken as asked for."""
    arguments: dict[str, Any] = {}
    """Passed to the runtime as they are, in its own names."""

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        # With attention tensor parallel over all ranks, the ranks of the experts are a part of
        # the same ranks: EP divides TP.
        if self.mesh.tensor_parallel % self.mesh.expert_parallel:
            raise ValueError(
                f"mesh.expert_parallel = {self.mesh.expert_parallel} does not divide "
                f"mesh.tensor_parallel = {self.mesh.tensor_parallel}"
            )
        if self.mesh.tensor_parallel != self.device.count:
            raise ValueError(
                f"mesh.tensor_parallel = {self.mesh.tensor_parallel} needs as many devices, "
                f"device.count = {self.device.count}"
            )
        if self.device.kind == "cpu" and self.cuda_graphs.batch_sizes:
            raise ValueError("cuda_graphs.batch_sizes is given for device.kind = cpu")
        over = [n for n in self.cuda_graphs.batch_sizes if n > self.limits.max_batch_size]
        if over:
            raise ValueError(
                f"cuda_graphs.batch_sizes has {over[0]}, over limits.max_batch_size = "
                f"{self.limits.max_batch_size}"
            )
        held = self.kv_cache.max_tokens
        if held is not None and held < self.limits.max_seq_len:
            raise ValueError(
                f"kv_cache.max_tokens = {held} holds no sequence of limits.max_seq_len = "
                f"{self.limits.max_seq_len}"
            )
        return self


def names(directory: Path = PROFILES) -> list[str]:
    """Returns the names of the profiles in a directory, sorted."""
    return document.names(directory)


def load(name: str, directory: Path = PROFILES) -> Profile:
    """Returns the profile with this name, or in this YAML file.

    Raises BuildError that names the file and the key, with the nearest valid name.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else directory / f"{name}.yaml"
    raw = document.read(path, "profile", name, names(directory))
    try:
        return Profile.model_validate(raw)
    except ValidationError as error:
        raise _explain(path, error) from None


def _explain(path: Path, error: ValidationError) -> BuildError:
    """Turns the first problem into one line; a wrong key comes before what its absence causes."""
    problems = error.errors()
    unknown = [p for p in problems if p["type"] == "extra_forbidden"]
    problem = (unknown or problems)[0]
    location = tuple(part for part in problem["loc"] if isinstance(part, str | int))
    key = ".".join(str(part) for part in location)
    if unknown:
        known = _keys(location[:-1])
        advice = document.suggest(str(location[-1]), known)
        return BuildError(ExitCode.CONFIGURATION, f"{path}: unknown key {key}", advice)
    text = problem["msg"].removeprefix("Value error, ")
    where = f"{path}: {key}: {text}" if key else f"{path}: {text}"
    return BuildError(ExitCode.CONFIGURATION, where)


def _keys(location: tuple[str | int, ...]) -> list[str]:
    """Returns the keys that the section at this place of a profile may have."""
    section: type[BaseModel] = Profile
    for part in location:
        annotation = section.model_fields[str(part)].annotation
        options = get_args(annotation) or (annotation,)
        section = next(o for o in options if isinstance(o, type) and issubclass(o, BaseModel))
    return sorted(section.model_fields)
