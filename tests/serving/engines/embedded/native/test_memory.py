"""What loading takes beside what it keeps, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from benchmarks.synthetic import generate
from engine_build.weights.quantise import quantise
from model_assets import manifest

MEASURE = """
import sys
from pathlib import Path
from serving.engines.embedded.native import library
from serving.engines.embedded.native.model import load_native

def status(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))

kernels = library.load(library.default_cache())
before = status("VmRSS")
Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
model = load_native(
    Path(sys.argv[1]), block_tokens=32, library=kernels, most_unpacked_bytes=0
)
print(status("VmHWM") - before, status("VmRSS") - before)
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many layers as gpt-oss-20b has, each a hundredth of its size, with INT8 matrices."""
    room = tmp_path_factory.mktemp("weights")
    shape = manifest.read("gpt-oss-20b").architecture
    small = {"hidden_size": 256, "intermediate_size": 256, "vocab_size": 4096}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 2}
    shape = msgspec.structs.replace(shape, **small, **heads)
    generate(shape, room / "published", limit_bytes=20_000_000)
    quantise(room / "published", room / "int8", "int8", "source", workers=1)
    (room / "int8/config.json").write_bytes((room / "published/config.json").read_bytes())
    return room / "int8"


def test_loading_takes_at_most_a_tenth_more_than_it_keeps(checkpoint: Path) -> None:
    measured = subprocess.run(
        [sys.executable, "-c", MEASURE, str(checkpoint)],
        capture_output=True,
        text=True,
        check=True,
    )
    peak_kib, kept_kib = map(int, measured.stdout.split())
    assert kept_kib > 50_000
    assert peak_kib <= 1.1 * kept_kib
