"""The GPU benchmark's code on a CPU, and what it says where there is no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import gpu, report


def test_on_a_cpu_it_says_so_checks_padded_steps_and_keeps_no_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "CHECKPOINTS", tmp_path / "checkpoints")
    monkeypatch.chdir(tmp_path)
    gpu.main("cpu")
    said = " ".join(capsys.readouterr().out.split())
    assert "No GPU is used" in said
    assert "differ between graphs and eager steps: 0.00" in said
    assert not (tmp_path / report.RESULTS).exists()


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no CUDA GPU"):
        gpu.main("cuda")
