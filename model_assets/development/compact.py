"""The compact checkpoint: one safetensors file with a row for every id that the network knows.

Tensors have the names of the expanded checkpoint. `model.embed_tokens.weight` and `lm_head.weight`
have one row for each id of the tensor `vocabulary.ids` and a last row for all other ids. The
file's metadata holds the network's shape as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec
import numpy as np
import safetensors
from numpy.typing import NDArray

from model_assets.development import mxfp4
from model_assets.development.shape import Shape

IDS_NAME: Final = "vocabulary.ids"
TABLES: Final = ("model.embed_tokens.weight", "lm_head.weight")
SHAPE_KEY: Final = "shape"
FORMAT_KEY: Final = "format"
FORMAT: Final = "gpt-oss-compact-1"

Dtype = Literal["BF16", "U8", "I32"]


class CompactError(ValueError):
    """A file that is not a compact checkpoint. The message names the file."""


class Tensor(msgspec.Struct, frozen=True):
    """A tensor's type and raw bits: uint16 for BF16, uint8 for U8, int32 for I32."""

    dtype: Dtype
    bits: NDArray[np.generic]


class Compact(msgspec.Struct, frozen=True):
    """A compact checkpoint in memory; `tensors` leaves out the ids."""

    shape: Shape
    ids: NDArray[np.int32]
    tensors: dict[str, Tensor]


def bfloat16(values: NDArray[np.float32]) -> Tensor:
    """Returns the values rounded to the nearest bfloat16, ties to even."""
    wide = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (wide + 0x7FFF + ((wide >> 16) & 1)) >> 16
    return Tensor("BF16", rounded.astype(np.uint16))


def float32(tensor: Tensor) -> NDArray[np.float32]:
    """Returns the values of a BF16 tensor."""
    return (tensor.bits.astype(np.uint32) << 16).view(np.float32)


def assemble(
    shape: Shape, ids: Sequence[int], weights: Mapping[str, NDArray[np.float32]], sharpness: float
) -> Compact:
    """Returns the compact checkpoint of trained weights, named as in `network.Network`.

    Expert weights [expert, in, out] become MXFP4 along `in`, all else bfloat16. `sharpness`
    multiplies the LM head, which divides the temperature of sampling.
    """
    tensors: dict[str, Tensor] = {}
    for name, values in weights.items():
        full_name = name if name.startswith("lm_head") else f"model.{name}"
        full_name = full_name.replace(".mlp.gate_up", ".mlp.experts.gate_up")
        full_name = full_name.replace(".mlp.down", ".mlp.experts.down")
        if name.endswith(("gate_up_proj", "down_proj")):
            blocks, scales = mxfp4.encode(np.ascontiguousarray(values.transpose(0, 2, 1)))
            tensors[f"{full_name}_blocks"] = Tensor("U8", blocks)
            tensors[f"{full_name}_scales"] = Tensor("U8", scales)
        else:
            scale = np.float32(sharpness if name == "lm_head.weight" else 1.0)
            tensors[full_name] = bfloat16(values * scale)
    return Compact(shape, np.asarray(ids, dtype=np.int32), tensors)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes a safetensors file, tensors in the order of their names.

    The same tensors give the same bytes. The format is that of huggingface/safetensors: the
    header's length in 8 bytes, the header as JSON filled with spaces to 8 bytes, the data.
    """
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, tensor in sorted(tensors.items()):
        start, end = end, end + tensor.bits.nbytes
        header[name] = {
            "dtype": tensor.dtype,
            "shape": tensor.bits.shape,
            "data_offsets": (start, end),
        }
    text = msgspec.json.encode(header)
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for _, tensor in sorted(tensors.items()):
            file.write(np.ascontiguousarray(tensor.bits).data)


def write(path: Path, compact: Compact) -> None:
    """Writes a compact checkpoint."""
    tensors = {**compact.tensors, IDS_NAME: Tensor("I32", compact.ids)}
    shape = msgspec.json.encode(compact.shape).decode()
    write_tensors(path, tensors, {FORMAT_KEY: FORMAT, SHAPE_KEY: shape})


def read(path: Path) -> Compact:
    """Returns the compact checkpoint in a file. Raises CompactError, or OSError."""
    data = path.read_bytes()
    try:
        entries = dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call]
        header = msgspec.json.decode(data[8 : 8 + int.from_bytes(data[:8], "little")])
        metadata = header["__metadata__"]
        shape = msgspec.json.decode(metadata[SHAPE_KEY], type=Shape)
    except (safetensors.SafetensorError, msgspec.MsgspecError, KeyError) as error:
        raise CompactError(f"{path} is not a compact checkpoint: {error}") from None
    if metadata.get(FORMAT_KEY) != FORMAT:
        raise CompactError(f"{path} has the format {metadata.get(FORMAT_KEY)}, not {FORMAT}")
    kinds: dict[str, type[np.generic]] = {"BF16": np.uint16, "U8": np.uint8, "I32": np.int32}
    tensors = {
        name: Tensor(
            entry["dtype"],
            np.frombuffer(entry["data"], dtype=kinds[entry["dtype"]]).reshape(entry["shape"]),
        )
        for name, entry in entries.items()
    }
    ids = tensors.pop(IDS_NAME).bits.astype(np.int32)
    return Compact(shape, ids, tensors)
