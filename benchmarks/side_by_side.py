"""cxrd beside the naive worker: the same full-size radiographs, a real Orthanc as the receiver, in alternating runs.

    .venv/bin/python -m benchmarks.side_by_side [--images 30] [--rounds 3] [--out FILE]

Prints a Markdown table; `--out` also writes every run and the medians as JSON. benchmarks/README.md says what the
numbers mean.
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
from typing import Any

from benchmarks import common
from benchmarks.arrivals import Counts, Transfer, count
from benchmarks.processes import Orthanc, Process, Sender, Watch, cxrd, naive
from modeltrain.model.card import load_card, shipped_model
from worker.settings import Results

ONE_ASSOCIATION, TWO_ASSOCIATIONS, ONE_BY_ONE = "1 association", "2 associations", "one by one"
ASSOCIATIONS = {ONE_ASSOCIATION: 1, TWO_ASSOCIATIONS: 2, ONE_BY_ONE: 1}

SETTLE = 0.5
"""Seconds after the last result that still count for the CPU time: what is left to be written down."""


@dataclass(frozen=True)
class Worker:
    """A program under test; `objects` is how many results it makes of one image."""

    name: str
    start: Callable[[Path, int, Path], tuple[Process, int]]
    objects: int


NAIVE = Worker("naive", naive, 1)
CXRD = Worker("cxrd", cxrd, len(Results().kinds))


@dataclass(frozen=True)
class Run:
    """What was measured in one run of one worker."""

    worker: str
    load: str
    counts: Counts
    cpu_seconds_per_image: float
    peak_megabytes: float

    def as_json(self) -> dict[str, Any]:
        """Return all of it in one flat object."""
        own = {name: value for name, value in asdict(self).items() if name != "counts"}
        return own | asdict(self.counts)


@dataclass(frozen=True)
class Measure:
    """A column of the table."""

    name: str
    heading: str
    decimals: int
    more_is_better: bool = False
    compared: bool = True


MEASURES = (
    Measure("images_per_second", "images/s", 2, more_is_better=True),
    Measure("cpu_seconds_per_image", "CPU s/image", 3),
    Measure("answer_p50", "answer p50 s", 3),
    # The naive worker's result comes before its answer: 0, and nothing to divide by.
    Measure("results_p50", "results p50 s", 3, compared=False),
    Measure("results_p95", "results p95 s", 3, compared=False),
    Measure("peak_megabytes", "peak MB", 0),
)


def main() -> None:
    """Measure and print."""
    options = _options()
    model = (options.model or shipped_model()).resolve()
    load_card(model)
    workers = [NAIVE, CXRD] if common.is_shared("bench", "naive_worker.py") else [CXRD]
    if NAIVE not in workers:
        _note(f"the naive worker is not here ({common.SHARED}/bench/naive_worker.py): cxrd is measured alone")
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="cxrd-bench-", dir=options.tmp) as name:
        folder = Path(name)
        _note(f"making {options.images} radiographs of {common.ROWS}×{common.COLUMNS}")
        images = common.radiographs(folder / "images", options.images)
        for number in range(options.rounds):
            for load in options.load:
                for worker in workers:
                    place = folder / f"{number}-{load.replace(' ', '-')}-{worker.name}"
                    run = measure(worker, load, images.files, place, model)
                    runs.append(run)
                    _note(f"round {number + 1}/{options.rounds}, {load}, {worker.name}: {_brief(run)}")
    setting = {
        "images": options.images,
        "rounds": options.rounds,
        "rows": common.ROWS,
        "columns": common.COLUMNS,
        "source": images.source,
        "cores": os.cpu_count(),
    }
    medians = summary([run.as_json() for run in runs])
    print(table(setting, medians), end="")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        report = setting | {"summary": medians, "runs": [run.as_json() for run in runs]}
        options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def measure(worker: Worker, load: str, files: Sequence[Path], folder: Path, model: Path) -> Run:
    """Run one worker once, with an Orthanc and a storage folder of its own."""
    folder.mkdir()
    orthanc = Orthanc(folder / "orthanc")
    try:
        process, port = worker.start(folder, orthanc.dicom, model)
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


def _measured(worker: Worker, load: str, files: Sequence[Path], port: int, watch: Watch, process: Process) -> Run:
    def send(files: Sequence[Path]) -> dict[str, Transfer]:
        """Send files over the load's associations; wait until all that were accepted have their results."""
        studies = {file: common.refresh(file) for file in files}
        os.sync()  # what the preparation left unwritten would be written, and waited for, during the measurement
        parts = [[file] for file in files] if load == ONE_BY_ONE else [files]
        transfers: dict[str, Transfer] = {}
        for part in parts:
            senders = [Sender(part[number :: ASSOCIATIONS[load]], port) for number in range(ASSOCIATIONS[load])]
            for sender in senders:
                sender.start()
            for sender in senders:
                sender.join()
                transfers |= {studies[file]: transfer for file, transfer in sender.transfers.items()}
            watch.wait_for([study for study, each in transfers.items() if each.accepted], worker.objects, process)
        return transfers

    send(files[:1])  # to warm up; not counted
    time.sleep(SETTLE)
    before = process.cpu_seconds()
    # One by one takes as long for each image as it is going to take in any case, so fewer of them do.
    transfers = send(files[: max(1, len(files) // 4)] if load == ONE_BY_ONE else files)
    time.sleep(SETTLE)
    used, peak = process.cpu_seconds() - before, process.peak_megabytes()
    try:
        counts = count(transfers, watch.arrivals, worker.objects)
    except ValueError as error:
        raise common.Missing(f"{worker.name}: {error}; see what it says when it is run by hand") from error
    return Run(worker.name, load, counts, used / counts.complete, peak)


def summary(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, for each load, each worker's medians over the rounds, and the median of the rounds' ratios.

    A ratio says how many times better cxrd is than the naive worker in the same round: above 1 is better.
    """
    lines: list[dict[str, Any]] = []
    for load in dict.fromkeys(run["load"] for run in runs):
        rounds: dict[str, list[dict[str, Any]]] = {}
        for run in runs:
            if run["load"] == load:
                rounds.setdefault(run["worker"], []).append(run)
        for worker, own in rounds.items():
            medians = {each.name: statistics.median(run[each.name] for run in own) for each in MEASURES}
            losses = {name: sum(run[name] for run in own) for name in ("refused", "missing")}
            lines.append({"load": load, "worker": worker} | medians | losses)
        if rounds.keys() == {NAIVE.name, CXRD.name}:
            pairs = list(zip(rounds[NAIVE.name], rounds[CXRD.name], strict=True))
            ratios = {each.name: _ratio(pairs, each) for each in MEASURES if each.compared}
            lines.append({"load": load, "worker": "ratio"} | ratios)
    return lines


def _ratio(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], measure: Measure) -> float:
    ratios: list[float] = [ours[measure.name] / theirs[measure.name] for theirs, ours in pairs]
    return statistics.median(ratio if measure.more_is_better else 1 / ratio for ratio in ratios)


def table(setting: dict[str, Any], lines: Sequence[dict[str, Any]]) -> str:
    """Return the Markdown table of a summary, and the line above it that says what was measured."""
    size = f"{setting['rows']}×{setting['columns']}"
    first = f"{setting['images']} images of {size} ({setting['source']}), medians of {setting['rounds']} rounds"
    text = [
        f"{first}, {setting['cores']} cores. Ratio: how many times better cxrd is.",
        "",
        "| sent | worker | " + " | ".join(each.heading for each in MEASURES) + " | refused | missing |",
        "|---|---|" + "---:|" * (len(MEASURES) + 2),
    ]
    for line in lines:
        if line["worker"] == "ratio":
            cells = [f"×{line[each.name]:.1f}" if each.name in line else "" for each in MEASURES] + ["", ""]
        else:
            cells = [f"{line[each.name]:.{each.decimals}f}" for each in MEASURES]
            cells += [str(line["refused"]), str(line["missing"])]
        text.append(f"| {line['load']} | {line['worker']} | " + " | ".join(cells) + " |")
    return "\n".join(text) + "\n"


def _brief(run: Run) -> str:
    counts = run.counts
    text = f"{counts.images_per_second:.2f} images/s, {run.cpu_seconds_per_image:.3f} CPU s/image"
    losses = counts.refused or counts.missing
    return text + (f"; refused: {counts.refused}, missing: {counts.missing}" if losses else "")


def _note(text: str) -> None:
    sys.stderr.write(text + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=common.at_least_one, default=30, help="radiographs in one run")
    parser.add_argument("--rounds", type=common.at_least_one, default=3, help="runs of each worker under each load")
    parser.add_argument("--load", action="append", choices=[*ASSOCIATIONS], help="only this load (may be repeated)")
    parser.add_argument("--model", type=Path, help="folder of the model; default: the shipped one")
    parser.add_argument("--tmp", type=Path, help="where the temporary folder is made; default: the system's")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write every run and the medians as JSON")
    options = parser.parse_args()
    options.load = options.load or [*ASSOCIATIONS]
    return options


if __name__ == "__main__":
    common.run(main)
