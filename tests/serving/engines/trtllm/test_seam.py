"""What the build writes is what the runtime takes: every shipped profile, end to end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine_build.manifest import compose
from engine_build.profiles import arguments, gpus, overlay, profile
from engine_build.profiles.profile import Profile
from serving.boundary import engine
from serving.boundary.engine import Model
from serving.boundary.messages import Generate, Output
from serving.engines.replay import directory as replay_engine
from serving.engines.trtllm import TrtllmRuntime
from serving.engines.trtllm.library import Library

PROFILES = [
    *(one for name in profile.names() if (one := profile.load(name)).runtime == "trtllm"),
    *(overlay.apply(profile.load("gpt-oss-120b-2xh100"), name) for name in overlay.names()),
]


@pytest.mark.parametrize("wanted", PROFILES, ids=lambda wanted: wanted.name)
def test_a_profiles_arguments_load_and_generate(
    tmp_path: Path,
    library: Library,
    generate: Callable[..., Generate],
    drain: Callable[..., dict[int, list[Output]]],
    wanted: Profile,
) -> None:
    gpu = gpus.find(wanted.device.kind)
    composed = arguments.compose(wanted, gpu, host_cache_bytes=2**20)
    complete = wanted.model_copy(update={"arguments": composed})
    built = compose(
        complete,
        Model(name="m", repository="r", revision="v"),
        replay_engine.ARCHITECTURE,
        library.version,
        (),
    )
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / engine.MANIFEST_NAME).write_bytes(engine.encode(built))
    machine = dataclasses.replace(
        library, device_names=lambda: [wanted.device.kind] * wanted.device.count
    )
    runtime = TrtllmRuntime.load(tmp_path, library=machine, variables={})
    running: Any = runtime._llm
    assert running.args["moe_config"] == built.arguments["moe_config"]
    runtime.submit(generate(1, stop_after=3))
    assert drain(runtime)[1][-1].finish == "stop"
    assert runtime.ready().max_seq_len == wanted.limits.max_seq_len
    runtime.close()
