"""Checkpoint manifests: what a build may start from, pinned to one revision and to every byte.

One JSON file a checkpoint under `checkpoints/`. Counts of weights and bytes follow from the
architecture, so a manifest whose sizes do not fit its numbers is found out.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from model_assets.development.shape import Shape

CHECKPOINTS = Path(__file__).parent / "checkpoints"
BFLOAT16_BYTES = 2
MXFP4_BLOCK = 32
MXFP4_BLOCK_BYTES = 17


class ManifestError(ValueError):
    """A manifest that is missing or cannot be read. The message names the file and the field."""


class CheckpointFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file to take. Without `sha256` a build records what it finds on the first fetch."""

    path: str
    size_bytes: int
    sha256: str | None = None


class CheckpointManifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a checkpoint comes from, what it is made of and which files belong to it."""

    name: str
    repository: str
    """A repository of huggingface.co, or `model_assets` for a file of this repository."""
    revision: str
    """A full commit id; for a file of this repository its sha256."""
    revision_source: str
    license: str
    stand_in: bool
    """True: not the real model, only its shape."""
    architecture: Shape
    files: tuple[CheckpointFile, ...]
    leave: tuple[str, ...] = ()
    """Patterns of files in the repository that are not fetched: the same weights in other forms."""


def names(directory: Path = CHECKPOINTS) -> tuple[str, ...]:
    """Returns the names of all manifests, sorted."""
    return tuple(sorted(path.stem for path in directory.glob("*.json")))


def read(name: str, directory: Path = CHECKPOINTS) -> CheckpointManifest:
    """Returns the manifest of a checkpoint. Raises ManifestError."""
    path = directory / f"{name}.json"
    try:
        checkpoint = msgspec.json.decode(path.read_bytes(), type=CheckpointManifest)
    except FileNotFoundError:
        known = ", ".join(names(directory)) or "none"
        raise ManifestError(f"{path} is missing; known checkpoints: {known}") from None
    except msgspec.MsgspecError as error:
        raise ManifestError(f"{path}: {error}") from None
    if checkpoint.name != name:
        raise ManifestError(f"{path}: name is {checkpoint.name}")
    return checkpoint


def expert_parameters(shape: Shape) -> int:
    """Returns the number of weights in the experts' matrices, which are stored as MXFP4."""
    one = 3 * shape.hidden_size * shape.intermediate_size
    return shape.num_hidden_layers * shape.num_local_experts * one


def other_parameters(shape: Shape) -> int:
    """Returns the number of all other weights, stored as bfloat16."""
    hidden, inner, experts = shape.hidden_size, shape.intermediate_size, shape.num_local_experts
    query = shape.num_attention_heads * shape.head_dim
    key_value = shape.num_key_value_heads * shape.head_dim
    projections = (hidden + 1) * (query + 2 * key_value) + (query + 1) * hidden
    attention = projections + shape.num_attention_heads
    biases = experts * (2 * inner + hidden)
    router = (hidden + 1) * experts
    layer = attention + biases + router + 2 * hidden
    return shape.num_hidden_layers * layer + hidden + 2 * shape.vocab_size * hidden


def parameters(shape: Shape) -> int:
    """Returns the number of all weights."""
    return expert_parameters(shape) + other_parameters(shape)


def active_parameters(shape: Shape) -> int:
    """Returns the number of weights that one token uses, the input table left out.

    This is how the model card of GPT-OSS counts: the chosen experts only, the LM head included.
    """
    share = shape.num_experts_per_tok / shape.num_local_experts
    idle_biases = shape.num_hidden_layers * (
        (shape.num_local_experts - shape.num_experts_per_tok)
        * (2 * shape.intermediate_size + shape.hidden_size)
    )
    table = shape.vocab_size * shape.hidden_size
    return int(expert_parameters(shape) * share) + other_parameters(shape) - idle_biases - table


def tensor_bytes(shape: Shape) -> int:
    """Returns the bytes of all tensors in a checkpoint, the files' headers left out."""
    experts = expert_parameters(shape) // MXFP4_BLOCK * MXFP4_BLOCK_BYTES
    return experts + other_parameters(shape) * BFLOAT16_BYTES
