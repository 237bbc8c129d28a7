"""What a sentence encoder's directory says of it: read without torch, so also by the API process.

The form is that of Sentence Transformers: `config.json`, `model.safetensors` and `tokenizer.json`
of a BERT, `modules.json` with what comes after it, `1_Pooling/config.json`.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
Pooling = Literal["mean", "cls"]

Read = TypeVar("Read")


class EncoderError(Exception):
    """A directory that is no encoder which can be run here. The message names the file."""


class Architecture(msgspec.Struct, frozen=True, kw_only=True):
    """The `config.json` of a BERT."""

    model_type: Literal["bert"]
    hidden_act: Literal["gelu"] = "gelu"
    position_embedding_type: Literal["absolute"] = "absolute"
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_hidden_layers: int
    max_position_embeddings: int
    type_vocab_size: int
    vocab_size: int
    layer_norm_eps: float = 1e-12


class EncoderDescription(msgspec.Struct, frozen=True, kw_only=True):
    """An encoder. `max_tokens` is of one text, with the tokens that are put around it."""

    directory: Path
    architecture: Architecture
    max_tokens: int
    pooling: Pooling
    normalizes: bool

    @property
    def dimensions(self) -> int:
        """The length of a vector."""
        return self.architecture.hidden_size


class _Module(msgspec.Struct):
    type: str
    path: str = ""


class _Pooling(msgspec.Struct):
    pooling_mode_cls_token: bool = False
    pooling_mode_mean_tokens: bool = False
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False
    pooling_mode_weightedmean_tokens: bool = False
    pooling_mode_lasttoken: bool = False


class _Lengths(msgspec.Struct):
    max_seq_length: int | None = None


def locate(reference: str) -> Path:
    """Returns the directory of an encoder: `reference` itself, or inside the package of that name.

    The package is not imported. Raises EncoderError when there is none.
    """
    path = Path(os.path.expanduser(reference))
    if os.path.isdir(path):
        return path.absolute()
    spec = find_spec(reference) if reference.isidentifier() else None
    for root in spec.submodule_search_locations or () if spec else ():
        for directory in (Path(root), Path(root) / "model"):
            if os.path.isfile(directory / "config.json"):
                return directory
    raise EncoderError(f"{reference}: neither a directory nor a package with an encoder")


def read(directory: Path) -> EncoderDescription:
    """Returns what is in `directory`. Raises EncoderError when it cannot be run here."""
    architecture = _read(directory / "config.json", Architecture)
    for name in (WEIGHTS, TOKENIZER):
        if not os.path.isfile(directory / name):
            raise EncoderError(f"{directory / name}: there is no such file")
        if not os.access(directory / name, os.R_OK):
            raise EncoderError(f"{directory / name}: may not be read")
    pooling: Pooling | None = None
    normalizes = False
    for module in _read(directory / "modules.json", list[_Module]):
        match module.type.rpartition(".")[2]:
            case "Transformer":
                continue
            case "Pooling":
                pooling = _pooling(directory / module.path / "config.json")
            case "Normalize":
                normalizes = True
            case other:
                raise EncoderError(f"{directory / 'modules.json'}: {other} is not supported")
    if pooling is None:
        raise EncoderError(f"{directory / 'modules.json'}: it has no Pooling")
    lengths = directory / "sentence_bert_config.json"
    asked = _read(lengths, _Lengths).max_seq_length if os.path.isfile(lengths) else None
    most = architecture.max_position_embeddings
    return EncoderDescription(
        directory=directory,
        architecture=architecture,
        max_tokens=min(asked or most, most),
        pooling=pooling,
        normalizes=normalizes,
    )


def _pooling(path: Path) -> Pooling:
    chosen = {
        name for name, value in msgspec.structs.asdict(_read(path, _Pooling)).items() if value
    }
    if chosen == {"pooling_mode_mean_tokens"}:
        return "mean"
    if chosen == {"pooling_mode_cls_token"}:
        return "cls"
    raise EncoderError(f"{path}: pooling must be that of the mean or of the first token")


def _read(path: Path, kind: type[Read]) -> Read:
    """Returns the JSON file as `kind`. Raises EncoderError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise EncoderError(f"{path}: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise EncoderError(f"{path}: {error}") from None
