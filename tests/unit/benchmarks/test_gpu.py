"""The GPU's benchmark runs on a CPU too: what it measures is there, and a way that is wrong is found out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks import gpu  # noqa: E402
from benchmarks.common import Missing  # noqa: E402

CPU = torch.device("cpu")


def test_a_cpu_agrees_with_itself_and_every_number_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "_DRAWN", 2)
    path = tmp_path / "gpu.json"
    gpu.main(["--device", "cpu", "--batches", "1,3", "--seconds", "0.01", "--json", str(path)])
    found = json.loads(path.read_text())
    assert [(each["way"], each["holds"]) for each in found["agreement"]] == [("eager", True)]
    assert [each["batch"] for each in found["speed"]] == [1, 3]
    assert all(each["images_per_second"] > 0 and each["latency_ms"] > 0 for each in found["speed"])
    assert found["with_files"]["eager, float32"] > 0
    assert found["left_out"] == {}
    assert "| eager | float32 | 0.0 | 0.0 | yes |" in capsys.readouterr().out


def test_a_way_that_answers_otherwise_does_not_agree() -> None:
    images, _ = gpu.drawings(1)
    (way,) = gpu.ways(CPU)
    expected = gpu.on_host(way(images))
    other = expected._replace(logits=expected.logits + np.array([[0.0, 0.1]], np.float32))
    assert gpu.agreement(way, images, expected).holds
    assert not gpu.agreement(way, images, other).holds


def test_without_cuda_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    with pytest.raises(Missing, match="no CUDA device"):
        gpu.main(["--device", "cuda"])
