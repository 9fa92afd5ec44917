"""The forward pass: two engines with the same outputs, and a batcher that lets many images share one pass."""

from __future__ import annotations

import os
import queue
import threading
import time
from concurrent.futures import Future
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dicom_io.errors import InvalidModel, InvalidSettings, Retryable
from dicom_io.fail_points import reached
from modeltrain.model.card import INT8, ONNX, Card
from modeltrain.model.onnx_session import VERSION, open_session
from modeltrain.model.outputs import Outputs
from worker.settings import ModelSettings

Image = NDArray[np.float32]

_GPU = ("/dev/nvidia*", "/proc/driver/nvidia", "/dev/nvmap", "/dev/dxg", "/dev/kfd")
"""What a driver puts where torch can have a GPU: NVIDIA's, of a board (Jetson), within Windows (WSL), and AMD's."""


class Engine(Protocol):
    """Something that runs the network on a batch; whether a batch is quicker than its images one by one."""

    name: str
    gains_by_batches: bool

    def predict(self, images: Image) -> Outputs:
        """Run the network on float32 [N, 1, 224, 224] in [0, 1]."""
        ...


class OnnxEngine:
    """ONNX Runtime on the CPU: the default, small and without torch."""

    gains_by_batches = False

    def __init__(self, path: Path, threads: int) -> None:
        try:
            # Spinning threads would take the cores from receiving and decoding between two forward passes.
            self._session = open_session(path, threads, spinning=False)
        except Exception as error:  # ONNX Runtime raises its own, undocumented types
            raise InvalidModel(f"{path}: ONNX Runtime cannot load it ({type(error).__name__})") from error
        self.name = f"onnxruntime {VERSION}, cpu{', int8' if path.name == INT8 else ''}"

    def predict(self, images: Image) -> Outputs:
        """Run the network; see `Engine.predict`."""
        return Outputs(*self._session.run(list(Outputs._fields), {"image": images}))


class TorchEngine:
    """torch on a GPU, or on the CPU as a second opinion."""

    def __init__(self, card: Card, device: str, threads: int) -> None:
        import torch  # noqa: PLC0415 - the extra `train`; serving on a CPU does without

        from modeltrain.network.architectures import load_network  # noqa: PLC0415

        if device == "cuda" and not torch.cuda.is_available():
            raise InvalidSettings("model.device is cuda, but torch finds no CUDA device")
        self._torch = torch
        self._device = torch.device(device)
        self.gains_by_batches = device != "cpu"
        if device == "cpu":
            torch.set_num_threads(threads)
        self._network = load_network(card).eval().to(self._device)
        self.name = f"torch {torch.__version__}, {device}"

    def predict(self, images: Image) -> Outputs:
        """Run the network; see `Engine.predict`."""
        with self._torch.inference_mode():
            batch = self._torch.from_numpy(images).to(self._device)
            return Outputs(*(output.float().cpu().numpy() for output in self._network(batch)))


def open_engine(card: Card, settings: ModelSettings) -> Engine:
    """Load the engine that the settings ask for.

    ``auto`` takes torch where it is installed and finds a CUDA device, and ONNX Runtime otherwise.

    Raises
    ------
    InvalidSettings
        When torch or CUDA is asked for and not there.
    InvalidModel
        When the weights cannot be loaded.
    """
    threads = settings.threads or os.cpu_count() or 1
    if settings.engine == "onnx" and settings.device == "cuda":
        raise InvalidSettings("model.engine onnx runs on the CPU only; set model.engine to torch for CUDA")
    wants_torch = settings.engine == "torch" or settings.device == "cuda"
    cuda = settings.device != "cpu" and settings.engine != "onnx" and _cuda_available()
    if not (wants_torch or cuda):
        return OnnxEngine(card.folder / onnx_file(card, settings.precision), threads)
    device = "cuda" if settings.device == "cuda" or cuda else "cpu"
    try:
        return TorchEngine(card, device, threads)
    except ModuleNotFoundError as error:
        raise InvalidSettings("model.engine torch needs torch: pip install 'cxrd[train]'") from error


def onnx_file(card: Card, precision: str) -> str:
    """Return the ONNX file to serve: int8 where there is one, since export keeps it only where it agrees with fp32."""
    if precision == "int8" and INT8 not in card.digests:
        raise InvalidSettings(f"model.precision is int8, but {card.label} has no {INT8}")
    return INT8 if precision != "fp32" and INT8 in card.digests else ONNX


def _cuda_available() -> bool:
    """Return whether torch is there and finds a GPU; without one it is not even imported, for the memory."""
    if find_spec("torch") is None or not _may_have_gpu():
        return False
    import torch  # noqa: PLC0415

    return bool(torch.cuda.is_available())


def _may_have_gpu() -> bool:
    return any(map(glob, _GPU))


class EngineFault(Retryable):
    """The engine raised an error: the image may be at fault, or the engine."""


class Batcher:
    """Gathers single images for a few milliseconds and gives them to the engine together.

    Parameters
    ----------
    size
        Images in one pass, at most.
    wait
        How long the first one waits for company, in seconds.
    """

    def __init__(self, engine: Engine, size: int, wait: float) -> None:
        self._engine = engine
        self._size = size
        self._wait = wait
        self._queue: queue.SimpleQueue[tuple[Image, Future[Outputs]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def predict(self, image: Image) -> Outputs:
        """Run one image, float32 [1, 224, 224] in [0, 1]; the outputs keep a leading dimension of 1."""
        future: Future[Outputs] = Future()
        self._queue.put((image, future))
        return future.result()

    def close(self) -> None:
        """Finish the images in the queue and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (first := self._queue.get()) is not None:
            batch, last = self._gather(first)
            images = np.stack([image for image, _ in batch])
            reached("inferring")
            try:
                outputs = self._engine.predict(images)
            except Exception as error:  # noqa: BLE001 - each waiting task gets it, and logs it with its row
                fault = EngineFault(f"the model's engine failed ({type(error).__name__})")
                fault.__cause__ = error
                for _, future in batch:
                    future.set_exception(fault)
            else:
                for index, (_, future) in enumerate(batch):
                    future.set_result(Outputs(*(part[index : index + 1] for part in outputs)))
            if last:
                return

    def _gather(self, first: tuple[Image, Future[Outputs]]) -> tuple[list[tuple[Image, Future[Outputs]]], bool]:
        batch: list[Any] = [first]
        deadline = time.monotonic() + self._wait
        while len(batch) < self._size:
            try:
                item = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if item is None:
                return batch, True
            batch.append(item)
        return batch, False
