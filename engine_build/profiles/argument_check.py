"""Checks TensorRT-LLM's arguments against the field list, where it is not there to do it itself."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from engine_build.failure import BuildError, ExitCode
from engine_build.profiles import trtllm_fields
from engine_build.profiles.trtllm_fields import Field, FieldList

RENAMED = {
    "acceptance_length_threshold": "acceptance_rate_threshold",
    "acceptance_window": "acceptance_rate_window_size",
    "block_reuse_policy": "block_reuse_config.policy",
    "cuda_graph_batch_sizes": "cuda_graph_config.batch_sizes",
    "cuda_graph_padding_enabled": "cuda_graph_config.enable_padding",
    "enable_block_reuse": "kv_cache_config.enable_block_reuse",
    "enable_trtllm_sampler": "nothing: the sampler is no longer chosen",
    "ep_size": "moe_expert_parallel_size",
    "free_gpu_memory_fraction": "kv_cache_config.free_gpu_memory_fraction",
    "kv_cache_dtype": "kv_cache_config.dtype",
    "kv_cache_free_gpu_memory_fraction": "kv_cache_config.free_gpu_memory_fraction",
    "moe_backend": "moe_config.backend",
    "sampler_type": "nothing: the sampler is no longer chosen",
    "speculative_model_dir": "speculative_config.speculative_model",
    "tp_size": "tensor_parallel_size",
    "use_cuda_graph": "cuda_graph_config",
}
"""Names of older versions and of trtllm-serve's flags, and what they are called now."""

_KINDS: dict[str, tuple[type, ...]] = {
    "array": (list, tuple),
    "boolean": (bool,),
    "integer": (int,),
    "null": (type(None),),
    "number": (int, float),
    "object": (dict,),
    "string": (str,),
}


def check(
    arguments: Mapping[str, Any],
    *,
    where: str,
    fields: FieldList | None = None,
    partial: bool = False,
) -> None:
    """Raises BuildError for the first argument that the version would not take.

    `where` begins the path that the error names. `partial`: required arguments may still come.
    """
    known = trtllm_fields.read() if fields is None else fields
    _check_object(arguments, known.root, where, known, partial)


def _check_object(
    values: Mapping[str, Any], class_name: str, where: str, known: FieldList, partial: bool
) -> None:
    kind = known.classes[class_name]
    for name, value in values.items():
        path = f"{where}.{name}"
        field = kind.fields.get(name)
        if field is not None:
            _check_value(value, field, path, known)
        elif not kind.open:
            raise BuildError(
                ExitCode.CONFIGURATION,
                f"{path}: TensorRT-LLM {known.version} has no such argument",
                _suggest(name, list(kind.fields)),
            )
    missing = [name for name, field in kind.fields.items() if field.required and name not in values]
    if missing and not partial:
        raise BuildError(ExitCode.CONFIGURATION, f"{where}: {missing[0]} is missing")


def _check_value(value: Any, field: Field, path: str, known: FieldList) -> None:
    if field.types and not any(_is(value, name) for name in field.types):
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"{path} = {value!r}: TensorRT-LLM {known.version} takes {' or '.join(field.types)}",
        )
    if isinstance(value, str) and field.values and value not in field.values:
        raise BuildError(
            ExitCode.CONFIGURATION,
            f"{path} = {value}: TensorRT-LLM {known.version} has no such value",
            _suggest(value, list(field.values)),
        )
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = field.minimum, field.maximum
        if (low is not None and value < low) or (high is not None and value > high):
            raise BuildError(
                ExitCode.CONFIGURATION, f"{path} = {value}: must be from {low} to {high}"
            )
    if isinstance(value, Mapping) and field.class_name:
        _check_object(value, field.class_name, path, known, partial=False)


def _is(value: Any, kind: str) -> bool:
    """Tells whether a value has a JSON type; a boolean is no number."""
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _KINDS[kind])


def _suggest(name: str, known: list[str]) -> str:
    if name in RENAMED:
        return f"It is now {RENAMED[name]}"
    near = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean {near[0]}?" if near else ""
