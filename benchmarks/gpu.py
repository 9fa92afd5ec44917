"""What a GPU makes of the network: does it agree with the CPU, and how many images a second at which batch?

    .venv/bin/python -m benchmarks.gpu [--device cuda] [--batches 1,2,4,8,16,32,64,128,256] [--json FILE]

Needs torch and this package, no serving engine. On a machine without CUDA it runs on the CPU, where the ways that only
CUDA has are left out. Prints Markdown tables; exit code 1 where a way does not agree with the CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import common
from dicom_io.errors import CxrdError
from dicom_io.header.reading import read_dataset
from dicom_io.objects.common import encode
from dicom_io.objects.radiograph import radiograph
from dicom_io.pixels.render import render
from modeltrain.model.card import load_card, shipped_model
from modeltrain.model.outputs import Outputs, probability
from modeltrain.model.preprocess import to_input
from modeltrain.network.architectures import load_network
from worker.demo.child_phantom import draw_child

TOLERANCE = {"float32": 1e-3, "float16": 1e-2}
"""How far a probability may be from the CPU's, by precision."""
_DRAWN = 16
"""Distinct radiographs; larger batches repeat them."""
_IN_FLIGHT = 3

Network = Callable[[torch.Tensor], Any]
Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Agreement:
    """How far a way's answers are from those of the CPU in float32, at most."""

    way: str
    precision: str
    probability: float
    evidence: float

    @property
    def holds(self) -> bool:
        """Whether the probabilities agree."""
        return self.probability <= TOLERANCE[self.precision]


@dataclass(frozen=True)
class Speed:
    """One way at one batch: images a second with several batches in flight, and milliseconds of one batch alone."""

    way: str
    precision: str
    batch: int
    images_per_second: float
    latency_ms: float


class Way:
    """One way to run the network: a name, a precision and what runs it.

    Parameters
    ----------
    network
        On its device.
    """

    def __init__(self, name: str, precision: str, network: Network, device: torch.device) -> None:
        self.name, self.precision, self.device = name, precision, device
        self._network = network
        # A graph has one set of buffers: its batches follow each other.
        self.in_flight = 1 if isinstance(network, Graph) else _IN_FLIGHT

    def __call__(self, images: torch.Tensor) -> Tensors:
        """Run the network on float32 [N, 1, 224, 224] on the device; the outputs stay there."""
        half = self.precision == "float16"
        with torch.inference_mode(), torch.autocast(self.device.type, torch.float16) if half else nullcontext():
            return tuple(self._network(images))


def on_host(outputs: Tensors) -> Outputs:
    """Return the outputs of a way as arrays."""
    return Outputs(*(part.float().cpu().numpy() for part in outputs))


class Graph:
    """A CUDA graph for each size of batch: one launch instead of hundreds.

    Its memory is its own, so that one batch at a time may be in it; the outputs are copied out.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._graphs: dict[tuple[Any, ...], tuple[Any, torch.Tensor, Tensors]] = {}

    def __call__(self, images: torch.Tensor) -> Tensors:
        """Replay the graph of this size, recorded at its first batch."""
        key = (tuple(images.shape), torch.is_autocast_enabled(images.device.type))
        if key not in self._graphs:
            self._graphs[key] = self._record(images)
        graph, source, target = self._graphs[key]
        source.copy_(images)
        graph.replay()
        return tuple(each.clone() for each in target)

    def _record(self, images: torch.Tensor) -> tuple[Any, torch.Tensor, Tensors]:
        source = images.clone()
        aside: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # libraries make their choices before anything is recorded
            for _ in range(3):
                self._network(source)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            target = tuple(self._network(source))
        return graph, source, target


def ways(device: torch.device) -> Iterator[Way]:
    """Yield the ways of a device; half precision gains nothing on a CPU."""
    card = load_card(shipped_model())
    network = load_network(card).to(device)
    half = "float16"
    yield Way("eager", "float32", network, device)
    if device.type == "cuda":
        yield Way("eager", half, network, device)
        compiled: Network = torch.compile(network, dynamic=False)
        yield Way("compiled", "float32", compiled, device)
        yield Way("compiled", half, compiled, device)
        yield Way("CUDA graph", "float32", Graph(network), device)
        yield Way("CUDA graph", half, Graph(network), device)


def agreement(way: Way, images: torch.Tensor, expected: Outputs) -> Agreement:
    """Hold a way to the CPU's outputs for the same images."""
    outputs = on_host(way(images.to(way.device)))
    apart = np.abs(probability(outputs.logits) - probability(expected.logits)).max()
    evidence = np.abs(outputs.evidence - expected.evidence).max()
    return Agreement(way.name, way.precision, round(float(apart), 6), round(float(evidence), 5))


def speed(way: Way, images: torch.Tensor, batch: int, seconds: float) -> Speed:
    """Measure a way at one batch, from host memory to host memory."""
    source = images.repeat(-(-batch // len(images)), 1, 1, 1)[:batch].contiguous()
    pipe = Pipe(way, source)
    pipe.run(2)
    alone: list[float] = []
    end = time.perf_counter() + seconds / 2
    while time.perf_counter() < end or len(alone) < 3:
        begin = time.perf_counter()
        pipe.run(1)
        alone.append(time.perf_counter() - begin)
    rounds = max(3, int(seconds / 2 / statistics.median(alone)))
    begin = time.perf_counter()
    pipe.run(rounds)
    taken = time.perf_counter() - begin
    return Speed(
        way.name, way.precision, batch, round(rounds * batch / taken, 1), round(1000 * statistics.median(alone), 2)
    )


class Pipe:
    """Batches on their way through a device: pinned memory, copies that block nothing, a stream for each batch."""

    def __init__(self, way: Way, source: torch.Tensor) -> None:
        self._way = way
        self._is_cuda = way.device.type == "cuda"
        self._source = source.pin_memory() if self._is_cuda else source
        lane: Any = torch.cuda.Stream
        self._streams = [lane() for _ in range(way.in_flight)] if self._is_cuda else []

    def run(self, rounds: int) -> list[Tensors]:
        """Send so many batches through; the outputs are in host memory when it returns."""
        target = [self._one(number) for number in range(rounds)]
        if self._is_cuda:
            torch.cuda.synchronize()
        return target

    def _one(self, number: int) -> Tensors:
        if not self._is_cuda:
            return self._way(self._source)
        with torch.cuda.stream(self._streams[number % len(self._streams)]):
            outputs = self._way(self._source.to(self._way.device, non_blocking=True))
            return tuple(part.to("cpu", non_blocking=True) for part in outputs)


def rate_with_files(way: Way, files: Sequence[Path], batch: int, seconds: float, threads: int) -> float:
    """Return images a second when files are read, rendered and reduced for the network meanwhile."""

    def prepare(number: int) -> torch.Tensor:
        rendered = render(read_dataset(files[number % len(files)]))
        return torch.from_numpy(to_input(rendered.values))

    count = 0
    begin = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        waiting = [pool.submit(prepare, number) for number in range(2 * batch)]
        number = len(waiting)
        while time.perf_counter() - begin < seconds or count == 0:
            ready, waiting = waiting[:batch], waiting[batch:]
            images = torch.stack([each.result() for each in ready])
            waiting += [pool.submit(prepare, number + each) for each in range(batch)]
            number += batch
            Pipe(way, images).run(1)
            count += batch
        taken = time.perf_counter() - begin
        for each in waiting:
            each.cancel()
    return round(count / taken, 1)


def drawings(count: int) -> tuple[torch.Tensor, list[NDArray[np.uint8]]]:
    """Return drawn children as the network takes them, float32 [N, 1, 224, 224], and as pixels."""
    pixels = [draw_child(seed=number) for number in range(count)]
    inputs = [to_input(each.astype(np.float32) / np.float32(255)) for each in pixels]
    return torch.from_numpy(np.stack(inputs)), pixels


def measure(device: torch.device, batches: Sequence[int], seconds: float) -> dict[str, Any]:
    """Measure all ways of a device.

    Returns
    -------
    dict
        ``device``, ``torch``, ``agreement``, ``speed``, ``with_files`` (images a second by way) and ``left_out`` (why a
        way does not run here), all plain values.
    """
    inputs, pixels = drawings(_DRAWN)
    cpu = Way("eager", "float32", load_network(load_card(shipped_model())), torch.device("cpu"))
    expected = on_host(cpu(inputs))
    agreements: list[Agreement] = []
    speeds: list[Speed] = []
    left_out: dict[str, str] = {}
    feeds: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{number}.dcm" for number in range(len(pixels))]
        for number, (path, values) in enumerate(zip(files, pixels, strict=True)):
            path.write_bytes(encode(radiograph(values, uid_seed=f"gpu-{number}")))
        for way in ways(device):
            name = f"{way.name}, {way.precision}"
            try:
                agreements.append(agreement(way, inputs, expected))
                speeds += [speed(way, inputs, batch, seconds) for batch in batches]
                feeds[name] = rate_with_files(
                    way, files, min(32, max(batches)), 2 * seconds, threads=torch.get_num_threads()
                )
            except (RuntimeError, CxrdError) as error:  # a way that the device or its compiler does not take
                left_out[name] = str(error).strip().splitlines()[0][:200]
    is_cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if is_cuda else f"CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "agreement": [asdict(each) | {"holds": each.holds} for each in agreements],
        "speed": [asdict(each) for each in speeds],
        "with_files": feeds,
        "left_out": left_out,
    }


def show(numbers: dict[str, Any]) -> None:
    """Print what was measured as Markdown."""
    print(f"{numbers['device']}, torch {numbers['torch']}\n")
    print("| way | precision | probability apart | evidence apart | agrees |\n|---|---|---:|---:|---|")
    for each in numbers["agreement"]:
        agrees = "yes" if each["holds"] else "NO"
        print(f"| {each['way']} | {each['precision']} | {each['probability']} | {each['evidence']} | {agrees} |")
    print("\n| way | precision | batch | images/s | ms a batch |\n|---|---|---:|---:|---:|")
    for each in numbers["speed"]:
        cells = f"{each['batch']} | {each['images_per_second']} | {each['latency_ms']}"
        print(f"| {each['way']} | {each['precision']} | {cells} |")
    print("\n| way | images/s with files being read meanwhile |\n|---|---:|")
    for name, rate in numbers["with_files"].items():
        print(f"| {name} | {rate} |")
    for name, reason in numbers["left_out"].items():
        print(f"\n{name}: left out: {reason}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print; exit code 1 where a way does not agree."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batches", default="1,2,4,8,16,32,64,128,256")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each number")
    parser.add_argument("--json", type=Path, help="write the numbers into this file too")
    options = parser.parse_args(arguments)
    batches = [int(each) for each in options.batches.split(",")]
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise common.Missing("torch finds no CUDA device here")
    numbers = measure(torch.device(options.device), batches, options.seconds)
    show(numbers)
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=1) + "\n")
    if not all(each["holds"] for each in numbers["agreement"]):
        raise SystemExit(1)


if __name__ == "__main__":
    common.run(main)
