"""The engine directory: what `engine_build` makes and a runtime executes.

    engine.json                      this manifest
    checkpoint/                      config.json and safetensors, in Hugging Face's layout
    tokenizer/o200k_base.tiktoken.xz the vocabulary's ranks
    cache/                           what tuning left (may be absent; no part of the digest)

An engine is content-addressed: `digest` covers the manifest without itself, and the manifest holds
the sha256 of every file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

MANIFEST_NAME = "engine.json"
RANKS_PATH = "tokenizer/o200k_base.tiktoken.xz"
CHECKPOINT_DIRECTORY = "checkpoint"
CACHE_DIRECTORY = "cache"
SCHEMA_VERSION = 1

SERVED_NAMES = ("openai/gpt-oss-120b", "openai/gpt-oss-20b")
"""What the models of this product are called by those who ask for them."""

RuntimeName = Literal["trtllm", "embedded", "replay"]


class EngineError(Exception):
    """An engine directory that cannot be used. The message names the file and the field."""


class Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the weights come from. `stand_in` marks a checkpoint that is not the real model."""

    name: str
    repository: str
    revision: str
    stand_in: bool = False

    @property
    def served_name(self) -> str:
        """Under which name it is served unless the operator gives one: the name under which it was
        published. A stand-in has none, and stands for gpt-oss-120b."""
        return SERVED_NAMES[0] if self.stand_in else self.repository


class Architecture(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The numbers of a GPT-OSS model, in the names of Hugging Face's config.json."""

    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_local_experts: int
    num_experts_per_tok: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    sliding_window: int
    vocab_size: int
    max_position_embeddings: int


class Precision(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Number formats a part: weights of the experts, activations, KV cache."""

    weights: str
    activations: str
    kv_cache: str


class Mesh(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the model is cut: tensor parallel and expert parallel ranks."""

    tensor_parallel: int = 1
    expert_parallel: int = 1


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one step and one sequence may hold, in sequences and tokens."""

    max_batch_size: int
    max_num_tokens: int
    max_seq_len: int


class KvCache(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The paged cache. `max_tokens` None: as much as the memory fraction gives."""

    block_tokens: int
    max_tokens: int | None = None
    free_memory_fraction: float | None = None
    block_reuse: bool = True


class CudaGraphs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Decode batch sizes to capture; `padding` rounds a batch up to the next one."""

    batch_sizes: tuple[int, ...] = ()
    padding: bool = True


class Device(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the engine is for: `cpu`, or a GPU's product name as NVML gives it."""

    kind: str
    count: int = 1


class File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of the directory, `path` relative with forward slashes."""

    path: str
    size_bytes: int
    sha256: str


class Golden(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prompt and the greedy tokens that the engine gave when it was built."""

    name: str
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]


class Comparison(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One precision against the reference, token by token over the reference's own answers."""

    precision: Precision
    positions: int
    """0: the engine could not be asked."""
    agreement: float
    """Share of positions at which both have the same likeliest token."""
    divergence: float | None
    """Mean Kullback-Leibler divergence from the reference, in nats: at least so much, by the
    likeliest tokens of both. None: the runtime gives no log-probabilities."""
    largest_divergence: float | None
    right: float | msgspec.UnsetType = msgspec.UNSET
    """Share of the tokens of known answers that it gives. Absent where none were asked for."""
    lost: float | msgspec.UnsetType = msgspec.UNSET
    """Share of them that the reference gives and it does not, less those that it alone gives."""
    passed: bool


class Gate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the build measured of precision, and what it asked for."""

    reference: Precision
    least_agreement: float
    most_divergence: float
    most_lost: float | msgspec.UnsetType = msgspec.UNSET
    comparisons: tuple[Comparison, ...]
    """In the order in which they were tried. One that did not pass gave way to a fallback."""


class Engine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The manifest, `engine.json`."""

    schema_version: int
    name: str
    runtime: RuntimeName
    runtime_version: str
    model: Model
    architecture: Architecture
    precision: Precision
    mesh: Mesh
    limits: Limits
    kv_cache: KvCache
    cuda_graphs: CudaGraphs
    device: Device
    arguments: dict[str, Any] = {}
    """What the runtime takes besides, in its own names."""
    golden: tuple[Golden, ...] = ()
    gate: Gate | msgspec.UnsetType = msgspec.UNSET
    """Absent where the profile asks for no comparison."""
    files: tuple[File, ...] = ()
    digest: str = ""


def digest(engine: Engine) -> str:
    """Returns the sha256 (hex) of the manifest's canonical JSON with an empty digest."""
    bare = msgspec.structs.replace(engine, digest="")
    return hashlib.sha256(msgspec.json.encode(bare, order="deterministic")).hexdigest()


def encode(engine: Engine) -> bytes:
    """Returns the manifest as indented JSON with its digest filled in."""
    sealed = msgspec.structs.replace(engine, digest=digest(engine))
    return msgspec.json.format(msgspec.json.encode(sealed), indent=2) + b"\n"


def decode(content: bytes, where: Path) -> Engine:
    """Returns the manifest of encoded bytes, its digest checked. Raises EngineError that begins
    with `where`."""
    try:
        engine = msgspec.json.decode(content, type=Engine)
    except msgspec.MsgspecError as error:
        raise EngineError(f"{where}: {error}") from None
    if engine.schema_version != SCHEMA_VERSION:
        raise EngineError(
            f"{where}: schema_version is {engine.schema_version}, this service reads "
            f"{SCHEMA_VERSION}; build the engine again"
        )
    if engine.digest != digest(engine):
        raise EngineError(f"{where}: digest does not match the manifest; build the engine again")
    return engine


def read(directory: Path) -> Engine:
    """Returns the manifest of an engine directory, its digest and its files' sizes checked.

    Raises EngineError for what is missing or changed. Contents are not hashed: see `verify`.
    """
    path = directory / MANIFEST_NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise EngineError(f"{directory} is not an engine: it has no {MANIFEST_NAME}") from None
    except OSError as error:
        raise EngineError(f"{path} cannot be read: {error.strerror}") from None
    engine = decode(content, path)
    for file in engine.files:
        try:
            size_bytes = (directory / file.path).stat().st_size
        except FileNotFoundError:
            raise EngineError(f"{directory / file.path} is missing") from None
        except OSError as error:
            raise EngineError(f"{directory / file.path} cannot be read: {error.strerror}") from None
        if size_bytes != file.size_bytes:
            raise EngineError(
                f"{directory / file.path} has {size_bytes} bytes, engine.json says "
                f"{file.size_bytes}"
            )
    return engine


def sha256(path: Path) -> str:
    """Returns the sha256 (hex) of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(directory: Path, hashed: Callable[[Path], str] = sha256) -> Engine:
    """Returns the manifest after hashing every file, by `hashed`. Raises EngineError naming the
    first file that has changed."""
    engine = read(directory)
    for file in engine.files:
        try:
            found = hashed(directory / file.path)
        except OSError as error:
            raise EngineError(f"{directory / file.path} cannot be read: {error.strerror}") from None
        if found != file.sha256:
            raise EngineError(
                f"{directory / file.path} has changed: sha256 {found}, engine.json says "
                f"{file.sha256}"
            )
    return engine
