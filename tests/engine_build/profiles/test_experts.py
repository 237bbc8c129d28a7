"""Which expert backend computes what on which GPU, and what is refused before a byte is fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from engine_build.failure import BuildError, ExitCode
from engine_build.profiles import experts, gpus, profile, trtllm_fields
from engine_build.profiles.profile import Profile
from engine_build.profiles.trtllm_fields import FieldList
from engine_build.resolve import resolve

BLACKWELL = "NVIDIA B200"


def changed(name: str = "gpt-oss-120b-2xh200", **sections: dict[str, Any]) -> Profile:
    raw = profile.load(name).model_dump()
    for section, values in sections.items():
        raw[section] |= values
    return Profile.model_validate(raw)


def refused(wanted: Profile) -> BuildError:
    with pytest.raises(BuildError) as caught:
        experts.check(wanted, gpus.find(wanted.device.kind))
    assert caught.value.exit_code is ExitCode.CONFIGURATION
    return caught.value


def without_triton() -> FieldList:
    """Returns the arguments of a version that has TRITON no more."""
    listed = trtllm_fields.read()
    moe = listed.classes["MoeConfig"]
    left = tuple(value for value in moe.fields["backend"].values if value != "TRITON")
    fields = moe.fields | {"backend": msgspec.structs.replace(moe.fields["backend"], values=left)}
    classes = listed.classes | {"MoeConfig": msgspec.structs.replace(moe, fields=fields)}
    return msgspec.structs.replace(listed, version="1.5.0", classes=classes)


OLDER = [kind for kind, gpu in gpus.read().items() if gpu.sm < experts.HOPPER]


@pytest.mark.parametrize("kind", OLDER)
@pytest.mark.parametrize("name", ["gpt-oss-20b-1xh100", "gpt-oss-120b-1xh100"])
def test_cards_before_hopper_are_refused_with_the_reason_whatever_their_memory(
    tmp_path: Path, kind: str, name: str
) -> None:
    path = tmp_path / "older.yaml"
    path.write_text(yaml.safe_dump(changed(name, device={"kind": kind}).model_dump()))
    with pytest.raises(BuildError, match="kernels for MXFP4 experts on Hopper") as caught:
        resolve(str(path), None)
    assert caught.value.exit_code == 78
    assert kind in caught.value.message


def test_no_backend_makes_an_older_card_run() -> None:
    assert OLDER
    for backend in ("CUTLASS", "TRITON", "TRTLLM"):
        wanted = changed(device={"kind": OLDER[0]}, arguments={"moe_config": {"backend": backend}})
        assert "kernels for MXFP4 experts on Hopper" in refused(wanted).message


def test_blackwell_has_no_deterministic_engine() -> None:
    with pytest.raises(BuildError) as caught:
        resolve("gpt-oss-120b-1xb200", "deterministic")
    assert caught.value.exit_code == 78
    assert (
        "CUTLASS does not compute MXFP4 experts with precision.activations = bf16 on NVIDIA B2"
        in (caught.value.message)
    )


@pytest.mark.parametrize(
    ("sections", "part", "advice"),
    [
        (
            {"arguments": {"moe_config": {"backend": "TRTLLM"}}},
            "TRTLLM does not compute MXFP4 experts with precision.activations = bf16 on NVIDIA H2",
            "Leave the backend out: TRITON is taken",
        ),
        (
            {"device": {"kind": BLACKWELL}, "arguments": {"moe_config": {"backend": "TRITON"}}},
            "TRITON does not compute",
            "TRTLLM is taken",
        ),
        (
            {
                "precision": {"activations": "fp8"},
                "arguments": {"moe_config": {"backend": "CUTLASS"}},
            },
            "precision.activations = fp8 on NVIDIA H200",
            "TRITON is taken",
        ),
        (
            {"precision": {"activations": "mxfp8"}},
            "precision.activations = mxfp8 on NVIDIA H200 (compute capability 9.0)",
            "Give one of bf16, fp8 in precision.activations",
        ),
        ({"mesh": {"expert_parallel": 1}}, "TRITON does not cut an expert", "give CUTLASS"),
    ],
)
def test_what_a_backend_does_not_compute_is_refused(
    sections: dict[str, dict[str, Any]], part: str, advice: str
) -> None:
    error = refused(changed("gpt-oss-120b-2xh200", **sections))
    assert part in error.message
    assert advice in error.advice


@pytest.mark.parametrize("backend", ["CUTLASS", "TRTLLM"])
@pytest.mark.parametrize("activations", ["fp8", "mxfp8"])
def test_blackwell_computes_in_eight_bits(backend: str, activations: str) -> None:
    own = {"moe_config": {"backend": backend}}
    wanted = changed("gpt-oss-120b-1xb200", precision={"activations": activations}, arguments=own)
    experts.check(wanted, gpus.find(BLACKWELL))


def test_where_triton_is_gone_the_build_says_so_and_keeps_the_other_format(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert resolve("gpt-oss-120b-2xh100", None).notes == ()
    monkeypatch.setattr(trtllm_fields, "in_use", without_triton)
    resolved = resolve("gpt-oss-120b-2xh100", None)
    (note,) = resolved.notes
    assert (
        "TensorRT-LLM 1.5.0 has no backend for precision.activations = fp8 on NVIDIA H100" in note
    )
    assert resolved.profile.precision.activations == "bf16"
    assert resolved.profile.precision.kv_cache == "fp8"
    assert resolved.profile.arguments["moe_config"] == {"backend": "CUTLASS"}
    assert "OVERRIDE_QUANT_ALGO" not in resolved.profile.arguments["env_overrides"]
    assert resolved.gate
    (fallback,) = resolved.gate.fallbacks
    assert (fallback.precision.activations, fallback.precision.kv_cache) == ("bf16", "auto")
