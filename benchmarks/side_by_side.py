"""cxrd beside the naive worker: the same full-size radiographs, a real Orthanc as the receiver, in alternating runs.

    .venv/bin/python benchmarks/side_by_side.py [--images 40] [--rounds 3] [--json]

What the numbers mean stands in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks import ground
from benchmarks.peers import Orthanc, Process, Sender, Watch, cxrd, naive
from modeltrain.model.card import load_card, shipped_model

Start = Callable[[Path, int, Path], tuple[Process, int]]
WORKERS: dict[str, Start] = {"naive": naive, "cxrd": cxrd}
BURST_1, BURST_2, ONE_BY_ONE = "1 association", "2 associations", "one by one"
ASSOCIATIONS = {BURST_1: 1, BURST_2: 2, ONE_BY_ONE: 1}

PATIENCE = 60.0
"""Seconds without a new result after which the rest is given up as missing."""
SETTLE = 0.5
"""Seconds after the last result that still count for the CPU time: what is left to be written down."""


@dataclass(frozen=True)
class Run:
    """What was measured in one run of one worker."""

    worker: str
    load: str
    images: int
    results: int
    refused: int
    seconds: float
    images_per_second: float
    cpu_seconds_per_image: float
    latency_p50: float  # from the begin of C-STORE until the result is in Orthanc, s
    latency_p95: float
    answer_p50: float  # from the begin of C-STORE until its response, s
    peak_megabytes: float


# Name, heading, decimals, and whether more is better.
MEASURES = (
    ("images_per_second", "images/s", 2, True),
    ("cpu_seconds_per_image", "CPU s/image", 3, False),
    ("latency_p50", "latency p50 s", 3, False),
    ("latency_p95", "p95 s", 3, False),
    ("answer_p50", "answer p50 s", 3, False),
    ("peak_megabytes", "peak MB", 0, False),
)


def main() -> None:
    """Measure and print."""
    options = _options()
    model = (options.model or shipped_model()).resolve()
    load_card(model)
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="cxrd-bench-", dir=options.tmp) as name:
        folder = Path(name)
        _say(f"making {options.images} radiographs of {ground.ROWS}×{ground.COLUMNS}")
        files = ground.radiographs(folder / "images", options.images)
        for number in range(options.rounds):
            for load in options.load:
                for worker in WORKERS:
                    place = folder / f"{number}-{ASSOCIATIONS[load]}-{load.replace(' ', '')}-{worker}"
                    run = measure(worker, load, files, place, model)
                    runs.append(run)
                    if not options.json:
                        _say(f"round {number + 1}/{options.rounds}, {load}, {worker}: {_brief(run)}")
    if options.json:
        print(json.dumps({"cores": os.cpu_count(), "runs": [asdict(run) for run in runs], "summary": summary(runs)}))
    else:
        _print_table(runs, options)


def measure(worker: str, load: str, files: Sequence[Path], folder: Path, model: Path) -> Run:
    """Run one worker once, with an Orthanc and a storage folder of its own."""
    folder.mkdir()
    orthanc = Orthanc(folder / "orthanc")
    try:
        process, port = WORKERS[worker](folder, orthanc.dicom, model)
        try:
            process.wait_until_it_answers(port)
            watch = Watch(orthanc)
            watch.start()
            try:
                return _measured(worker, load, files, port, watch, process)
            finally:
                watch.stop()
        finally:
            process.stop()
    finally:
        orthanc.stop()


def _measured(worker: str, load: str, files: Sequence[Path], port: int, watch: Watch, process: Process) -> Run:
    ground.refresh(files[0])
    _send(files[:1], port, 1, watch, process)  # to warm up; not counted
    time.sleep(SETTLE)
    # One by one takes as long for each image as it is going to take in any case, so fewer of them do.
    counted = files[: max(1, len(files) // 4)] if load == ONE_BY_ONE else files
    studies = {ground.refresh(file): file for file in counted}
    os.sync()  # what the preparation left unwritten would be written, and waited for, during the measurement
    before = process.cpu_seconds()
    chunk = 1 if load == ONE_BY_ONE else len(counted)
    senders: list[Sender] = []
    for start in range(0, len(counted), chunk):
        senders += _send(counted[start : start + chunk], port, ASSOCIATIONS[load], watch, process)
    time.sleep(SETTLE)
    used, peak = process.cpu_seconds() - before, process.peak_megabytes()
    watch.stop()
    arrived = {studies[study]: moment for study, moment in watch.arrivals().items() if study in studies}
    return _run(worker, load, senders, arrived, used, peak)


def _send(files: Sequence[Path], port: int, associations: int, watch: Watch, process: Process) -> list[Sender]:
    """Send files over so many associations at once; wait until each has its result, or none comes any more."""
    expected = watch.count + len(files)
    senders = [Sender(files[number::associations], port) for number in range(associations)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    answered = time.monotonic()
    with watch.news:
        while watch.count < expected and process.alive:
            left = max(watch.last, answered) + PATIENCE - time.monotonic()
            if left <= 0:
                break
            watch.news.wait(min(left, 1.0))
    return senders


def _run(
    worker: str, load: str, senders: Sequence[Sender], arrived: dict[Path, float], used: float, peak: float
) -> Run:
    begun = {file: moment for sender in senders for file, moment in sender.begun.items()}
    answered = {file: moment for sender in senders for file, moment in sender.answered.items()}
    if not arrived:
        raise ground.Missing(f"{worker}: no result arrived; see what it says when it is run by hand")
    seconds = max(arrived.values()) - min(begun.values())
    latency = np.array([moment - begun[file] for file, moment in arrived.items()])
    return Run(
        worker=worker,
        load=load,
        images=len(begun),
        results=len(arrived),
        refused=sum(status != "Success" for sender in senders for status in sender.statuses),
        seconds=seconds,
        images_per_second=len(arrived) / seconds,
        cpu_seconds_per_image=used / len(arrived),
        latency_p50=float(np.percentile(latency, 50)),
        latency_p95=float(np.percentile(latency, 95)),
        answer_p50=statistics.median(answered[file] - begun[file] for file in answered),
        peak_megabytes=peak,
    )


def summary(runs: Sequence[Run]) -> list[dict[str, object]]:
    """Return, for each load, each worker's medians over the rounds, and the median of the rounds' ratios.

    A ratio says how many times better cxrd is than the naive worker in the same round: above 1 is better.
    """
    lines: list[dict[str, object]] = []
    for load in dict.fromkeys(run.load for run in runs):
        rounds = {worker: [run for run in runs if (run.load, run.worker) == (load, worker)] for worker in WORKERS}
        for worker, own in rounds.items():
            medians = {name: statistics.median(getattr(run, name) for run in own) for name, *_ in MEASURES}
            lost = sum(run.images - run.results for run in own)
            lines.append({"load": load, "worker": worker, **medians, "missing": lost})
        pairs = list(zip(rounds["naive"], rounds["cxrd"], strict=True))
        ratios: dict[str, object] = {"load": load, "worker": "ratio"}
        for name, _, _, more_is_better in MEASURES:
            each = [getattr(ours, name) / getattr(theirs, name) for theirs, ours in pairs]
            ratios[name] = statistics.median(ratio if more_is_better else 1 / ratio for ratio in each)
        lines.append(ratios)
    return lines


def _print_table(runs: Sequence[Run], options: argparse.Namespace) -> None:
    print(
        f"\n{options.images} images of {ground.ROWS}×{ground.COLUMNS}, medians of {options.rounds} rounds, "
        f"{os.cpu_count()} cores; ratio: how many times better cxrd is\n"
    )
    print("| sent | worker | " + " | ".join(heading for _, heading, *_ in MEASURES) + " | missing |")
    print("|---|---|" + "---:|" * (len(MEASURES) + 1))
    for line in summary(runs):
        if line["worker"] == "ratio":
            cells = [f"×{line[name]:.1f}" for name, *_ in MEASURES] + [""]
        else:
            cells = [f"{line[name]:.{digits}f}" for name, _, digits, _ in MEASURES] + [str(line["missing"])]
        print(f"| {line['load']} | {line['worker']} | " + " | ".join(cells) + " |")


def _brief(run: Run) -> str:
    words = f"{run.images_per_second:.2f} images/s, {run.cpu_seconds_per_image:.3f} CPU s/image"
    lost = run.images - run.results
    return words + (f", {lost} results missing, {run.refused} requests refused" if lost or run.refused else "")


def _say(words: str) -> None:
    sys.stderr.write(words + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=40, help="radiographs in one run")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each worker under each load")
    parser.add_argument("--load", action="append", choices=[*ASSOCIATIONS], help="only this load (may be repeated)")
    parser.add_argument("--model", type=Path, help="folder of the model; default: the shipped one")
    parser.add_argument("--tmp", type=Path, help="where the temporary folder is made; default: the system's")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if min(options.images, options.rounds) < 1:
        parser.error("--images and --rounds begin at 1")
    options.load = options.load or [*ASSOCIATIONS]
    return options


if __name__ == "__main__":
    ground.run(main)
