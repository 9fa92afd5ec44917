"""What the three result objects of a 2500×2048 image cost in CPU: making, writing and checking each, and the picture.

    .venv/bin/python benchmarks/results.py [--rounds 40] [--json] [--profile 25]

One thread, the thread's own CPU time, medians over warm rounds on a drawn radiograph with a positive finding and its
region: the dearest case. Not counted: reading the image, the forward pass (below the table, as a yardstick for the
machine), and storing the objects. `--profile` shows instead which functions the time goes to.
"""

from __future__ import annotations

import argparse
import cProfile
import datetime as dt
import json
import os
import pstats
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from pydicom import Dataset, dcmread

from benchmarks import common
from dicom_io.finding import Finding
from dicom_io.header.source_image import source_image
from dicom_io.objects import presentation_state, secondary_capture, structured_report
from dicom_io.objects.common import Basis, encode
from dicom_io.objects.kinds import ObjectKind
from dicom_io.objects.radiograph import radiograph
from dicom_io.objects.validate import check
from dicom_io.pixels.render import Rendered, render
from modeltrain.model.card import Card, load_card, shipped_model
from modeltrain.model.evidence import SIDE, regions_of
from modeltrain.model.lung_areas import lungs_of
from modeltrain.model.preprocess import to_input
from worker.demo.phantom import draw
from worker.inference.engine import open_engine
from worker.results.overlay import compose
from worker.settings import ModelSettings, Results

GOAL = 60.0
"""Milliseconds of CPU for everything in the table, on two cores where 1.0.0's forward pass took 11 ms."""
_CREATED = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC)


@dataclass(frozen=True)
class Cost:
    """CPU time of one step, milliseconds."""

    step: str
    median: float
    least: float


class Example:
    """A radiograph as it was received, and what a model found in it."""

    def __init__(self, card: Card) -> None:
        pixels = draw(seed=1, rows=common.ROWS, cols=common.COLUMNS, opacity=True)
        self.file = encode(radiograph(pixels.astype(np.uint16) * 16, uid_seed="benchmark", modality="DX"))
        self.rendered: Rendered = render(dcmread(BytesIO(self.file)))
        self.identity = card.identity
        down, across = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32) / SIDE
        self.evidence = (4 * np.exp(-((down - 0.6) ** 2 + (across - 0.3) ** 2) / 0.02)).astype(np.float32)
        lungs = ((np.abs(across - 0.5) > 0.08) & (np.abs(across - 0.5) < 0.36) & (np.abs(down - 0.5) < 0.35)).astype(
            np.float32
        )
        shape = common.ROWS, common.COLUMNS
        self.finding = Finding(
            probability=0.934,
            decision="PNEUMONIA",
            threshold=0.41,
            operating_point="screening",
            prediction_set=("PNEUMONIA",),
            outlier=0.4,
            agent="virus",
            agent_probability=0.6,
            regions=regions_of(self.evidence, lungs, *shape),
            lungs=lungs_of(lungs, *shape),
            score=2.6,
        )
        self.settings = Results()

    def round(self, step: Callable[[str, Callable[[], Any]], Any]) -> None:
        """Do it all once; every part goes through `step` by its name."""
        header = dcmread(BytesIO(self.file))  # anew: what has been decoded once is not decoded again
        source = step("read the header", lambda: source_image(header))
        basis = Basis(source, self.identity, _CREATED, series_number=9701, series_description="benchmark")
        common: dict[str, Any] = {"finding": self.finding, "identity": self.identity, "created": _CREATED}
        finding, aspect, window = self.finding, self.rendered.aspect, self.rendered.window
        picture = step("compose the picture", lambda: compose(self.rendered.values, self.evidence, **common))
        datasets: list[Dataset] = []
        makers: dict[ObjectKind, Callable[[], Dataset]] = {
            secondary_capture.KIND: lambda: secondary_capture.secondary_capture(basis, finding, picture),
            presentation_state.KIND: lambda: presentation_state.presentation_state(basis, finding, aspect, window),
            structured_report.KIND: lambda: structured_report.structured_report(basis, finding, others=datasets),
        }
        for kind, maker in makers.items():
            dataset = step(f"{kind.name}: make", maker)
            data = step(f"{kind.name}: write", partial(encode, dataset))
            step(f"{kind.name}: check", partial(check, data, kind, source))
            datasets.append(dataset)


def measure(example: Example, rounds: int) -> list[Cost]:
    """Return what each step costs."""
    times: dict[str, list[float]] = {}

    def step(name: str, work: Callable[[], Any]) -> Any:
        begun = time.thread_time()
        result = work()
        times.setdefault(name, []).append(1000 * (time.thread_time() - begun))
        return result

    for number in range(rounds + 3):
        example.round(step)
        if number == 2:  # three to warm up
            times.clear()
    return [Cost(name, statistics.median(each), min(each)) for name, each in times.items()]


def forward_pass(example: Example, card: Card, rounds: int) -> tuple[float, float]:
    """Return the forward pass's wall time on two threads and its CPU time: medians, milliseconds."""
    engine = open_engine(card, ModelSettings(engine="onnx", threads=2))
    image = to_input(example.rendered.values, card.input_size)[None]
    walls, cpus = [], []
    for _ in range(rounds + 3):
        wall, cpu = time.perf_counter(), time.process_time()
        engine.predict(image)
        walls.append(1000 * (time.perf_counter() - wall))
        cpus.append(1000 * (time.process_time() - cpu))
    return statistics.median(walls[3:]), statistics.median(cpus[3:])


def profile(example: Example, rounds: int, lines: int) -> None:
    """Print the functions that take most time, with all that they call."""
    example.round(lambda _, work: work())
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(rounds):
        example.round(lambda _, work: work())
    profiler.disable()
    pstats.Stats(profiler).sort_stats("cumulative").print_stats(lines)


def main() -> None:
    """Measure and print."""
    options = _options()
    cv2.setNumThreads(1)
    card = load_card(shipped_model())
    example = Example(card)
    if options.profile:
        profile(example, options.rounds, options.profile)
        return
    costs = measure(example, options.rounds)
    costs.append(Cost("sum", sum(each.median for each in costs), sum(each.least for each in costs)))
    wall, cpu = forward_pass(example, card, options.rounds)
    if options.json:
        steps = {each.step: each.median for each in costs}
        print(json.dumps({"cpu_ms": steps, "goal_ms": GOAL, "forward_pass_ms": {"wall": wall, "cpu": cpu}}))
        return
    print(f"{common.ROWS}×{common.COLUMNS}, {options.rounds} rounds, {os.cpu_count()} cores\n")
    print("| step | CPU ms, median | least |\n|---|---:|---:|")
    for each in costs:
        print(f"| {each.step} | {each.median:.1f} | {each.least:.1f} |")
    print(f"\nGoal: {GOAL:g}. Forward pass: {wall:.1f} ms on two threads, {cpu:.1f} ms of CPU.")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=common.at_least_one, default=40, help="rounds to take the medians of")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--profile", type=int, default=0, metavar="LINES", help="print so many functions by time")
    return parser.parse_args()


if __name__ == "__main__":
    common.run(main)
