"""The batcher: many images share a pass, each gets its own answer back, and an error reaches all who wait for it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from dicom_io.errors import InvalidModel, InvalidSettings
from modeltrain.model.card import INT8, load_card, shipped_model
from modeltrain.model.outputs import Outputs
from modeltrain.model.preprocess import to_input
from worker.demo.child_phantom import draw_child
from worker.inference import engine
from worker.inference.engine import Batcher, EngineFault, Image, OnnxEngine, TorchEngine, open_engine
from worker.settings import ModelSettings


class Echo:
    """An engine whose logits are the image's mean, and that remembers the size of each batch."""

    name = "echo"
    gains_by_batches = True

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def predict(self, images: Image) -> Outputs:
        self.sizes.append(len(images))
        time.sleep(0.02)
        if np.isnan(images).any():
            raise RuntimeError("broken")
        means = images.mean(axis=(1, 2, 3))
        logits = np.stack([np.zeros_like(means), means], axis=1)
        n = len(images)
        box = np.tile(np.array([0, 0, 1, 1], np.float32), (n, 1))
        evidence, lungs = np.zeros((n, 7, 7), np.float32), np.ones((n, 1, 1), np.float32)
        return Outputs(logits, evidence, box, lungs, logits, means)


def image(value: float) -> Image:
    return np.full((1, 8, 8), value, np.float32)


def test_each_gets_its_own_answer_and_passes_are_shared() -> None:
    echo = Echo()
    batcher = Batcher(echo, size=4, wait=0.02)
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda n: float(batcher.predict(image(n)).logits[0, 1]), range(36)))
    batcher.close()
    assert answers == list(range(36))
    assert max(echo.sizes) == 4
    assert len(echo.sizes) < 36


def test_one_alone_does_not_wait_for_long() -> None:
    batcher = Batcher(Echo(), size=8, wait=0.01)
    begun = time.monotonic()
    assert batcher.predict(image(3)).logits.shape == (1, 2)
    assert time.monotonic() - begun < 1
    batcher.close()


def test_an_error_reaches_who_waits_and_the_batcher_goes_on() -> None:
    batcher = Batcher(Echo(), size=1, wait=0)
    with pytest.raises(EngineFault, match="RuntimeError") as caught:
        batcher.predict(image(float("nan")))
    assert str(caught.value.__cause__) == "broken"
    assert batcher.predict(image(1)).logits[0, 1] == 1
    batcher.close()


def test_closing_finishes_what_was_asked_for() -> None:
    batcher = Batcher(Echo(), size=2, wait=0.5)
    answers: list[Outputs] = []
    thread = threading.Thread(target=lambda: answers.append(batcher.predict(image(2))))
    thread.start()
    time.sleep(0.1)
    batcher.close()
    thread.join()
    assert answers[0].logits[0, 1] == 2


def test_both_engines_give_the_same_numbers() -> None:
    """ONNX Runtime and torch, on the shipped weights, in fp32, to 1e-3: every output."""
    card = load_card(shipped_model())
    images = np.random.default_rng(0).random((3, 1, card.input_size, card.input_size), dtype=np.float32)
    ours = OnnxEngine(card.folder / "model.onnx", 1).predict(images)
    theirs = TorchEngine(card, "cpu", 1).predict(images)
    for name, mine, other in zip(Outputs._fields, ours, theirs, strict=True):
        assert mine.shape == other.shape, name
        np.testing.assert_allclose(mine, other, atol=1e-3, rtol=1e-3, err_msg=name)
    single = OnnxEngine(card.folder / "model.onnx", 1).predict(images[:1])
    np.testing.assert_allclose(single.logits, ours.logits[:1], atol=1e-4)


def test_the_shipped_int8_file_serves_and_answers_as_the_other_one() -> None:
    """Drawn children, since noise has no lungs. One thread or two, once or again: the same answers."""
    card = load_card(shipped_model())
    served, other = (open_engine(card, ModelSettings(device="cpu", precision=each)) for each in ("auto", "fp32"))
    assert (served.name.endswith(", int8"), other.name.endswith(", int8")) == (True, False)
    single = OnnxEngine(card.folder / INT8, 1)
    for seed in range(3):
        shown = to_input(draw_child(seed, 448, 448).astype(np.float32) / np.float32(255), card.input_size)[np.newaxis]
        ours, theirs = served.predict(shown), other.predict(shown)
        np.testing.assert_allclose(ours.logits, theirs.logits, atol=0.1)
        np.testing.assert_allclose(ours.lungs, theirs.lungs, atol=1e-3)
        np.testing.assert_allclose(ours.box, theirs.box, atol=1e-6)
        np.testing.assert_allclose(ours.outlier, theirs.outlier, rtol=0.1)
        np.testing.assert_array_equal(single.predict(shown).logits, ours.logits)


def test_auto_takes_onnx_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.inference.engine._cuda_available", lambda: False)
    card = load_card(shipped_model())
    assert isinstance(open_engine(card, ModelSettings()), OnnxEngine)
    assert isinstance(open_engine(card, ModelSettings(engine="torch")), TorchEngine)
    with pytest.raises(InvalidSettings, match="CUDA"):
        open_engine(card, ModelSettings(engine="torch", device="cuda"))
    with pytest.raises(InvalidSettings, match="CPU only"):
        open_engine(card, ModelSettings(engine="onnx", device="cuda"))


def test_a_machine_without_a_gpu_does_not_even_load_torch() -> None:
    if engine._may_have_gpu():
        pytest.skip("this machine has a GPU")
    code = """
import sys
from modeltrain.model.card import load_card, shipped_model
from worker.inference.engine import open_engine
from worker.settings import ModelSettings
open_engine(load_card(shipped_model()), ModelSettings())
sys.exit("torch" in sys.modules)
"""
    assert find_spec("torch")  # otherwise this shows nothing
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=300).returncode == 0


@pytest.mark.parametrize("works", [True, False])
def test_torch_is_asked_where_there_may_be_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, works: bool) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: works)
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(engine, "_GPU", (str(tmp_path / "nvidia*"),))
    assert engine._cuda_available() is works
    monkeypatch.setattr(engine, "find_spec", lambda _name: None)
    assert engine._cuda_available() is False


def test_what_is_no_model_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(InvalidModel, match="ONNX Runtime cannot load it"):
        OnnxEngine(tmp_path / "model.onnx", 1)
