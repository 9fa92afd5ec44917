"""All benchmarks of speed and size, one after the other, with fixed rounds: `make bench`.

    .venv/bin/python -m benchmarks.suite [--only NAME] [--out build/bench]

Each writes NAME.json, and what it printed as NAME.md; NAME.png where a picture says more. One for which something is
missing on this machine is named, and the others run. The exit code is 2 where none could run.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import common

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PATIENCE = 1800.0
Bars = dict[str, float]
"""What each bar of a picture is called, and how long it is."""


@dataclass(frozen=True)
class Benchmark:
    """One program of this folder.

    Attributes
    ----------
    arguments
        Of a run with fixed rounds; ``{out}`` stands for its JSON file. Without it the program prints JSON.
    bars
        Makes of its numbers what a picture shows; None where it draws by itself, or there is nothing to draw.
    unit
        Of the bars.
    """

    name: str
    arguments: Sequence[str]
    bars: Callable[[Any], Bars] | None = None
    unit: str = ""

    @property
    def prints_json(self) -> bool:
        """Whether its numbers are what it prints."""
        return "{out}" not in self.arguments and "--json" in self.arguments


def _side_by_side(numbers: Any) -> Bars:
    lines = [line for line in numbers["summary"] if line["worker"] != "ratio"]
    return {f"{line['load']}: {line['worker']}": line["images_per_second"] for line in lines}


def _stages(numbers: Any) -> Bars:
    return {each["name"]: each["wall"] for part in numbers.values() for each in part}


def _results(numbers: Any) -> Bars:
    return {str(name): float(value) for name, value in numbers["cpu_ms"].items()}


def _start(numbers: Any) -> Bars:
    return {f"{name}: {kind}": value for name, each in numbers["medians"].items() for kind, value in each.items()}


BENCHMARKS = (
    Benchmark("start", ["--rounds", "5", "--out", "{out}"], _start, "seconds"),
    Benchmark("side_by_side", ["--images", "20", "--rounds", "2", "--out", "{out}"], _side_by_side, "images a second"),
    Benchmark("stages", ["--images", "20", "--json"], _stages, "milliseconds"),
    Benchmark("results", ["--rounds", "40", "--json"], _results, "CPU milliseconds"),
    Benchmark("heatmap", ["--images", "30", "--json"]),
    Benchmark("gpu", ["--batches", "1,8", "--seconds", "0.5", "--json", "{out}"]),
    Benchmark("growth", ["--images", "10000", "--images", "100000", "--in-a-row", "1000", "--out", "{out}"]),
    Benchmark("backlog", ["--images", "200", "--steps", "4"]),
)


def run(benchmark: Benchmark, folder: Path, python: Sequence[str] = (sys.executable, "-m")) -> str:
    """Run a benchmark, and write what it printed and its numbers into a folder.

    Returns
    -------
    str
        Why it could not run; empty where it did.
    """
    out = folder / f"{benchmark.name}.json"
    out.unlink(missing_ok=True)
    module = f"benchmarks.{benchmark.name}"
    command = [*python, module, *(each.format(out=out) for each in benchmark.arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE, check=False)
    except subprocess.TimeoutExpired:
        return f"not done after {_PATIENCE:.0f} s"
    if done.returncode:
        return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    if benchmark.prints_json:
        out.write_text(json.dumps(json.loads(done.stdout), indent=1) + "\n")
    else:
        (folder / f"{benchmark.name}.md").write_text(done.stdout)
        if not out.exists():
            out.write_text(json.dumps({"table": done.stdout.splitlines()}, indent=1) + "\n")
    if benchmark.bars:
        draw(benchmark, benchmark.bars(json.loads(out.read_text())), out.with_suffix(".png"))
    return ""


def draw(benchmark: Benchmark, bars: Bars, path: Path) -> None:
    """Draw bars, one below the other, each with its number."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 0.8 + 0.32 * len(bars)), layout="constrained")
    axes: Axes = figure.subplots()
    drawn = axes.barh(list(bars), list(bars.values()), color="#2f6db2")
    axes.bar_label(drawn, fmt="%.3g", padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel=benchmark.unit, title=benchmark.name.replace("_", " "))
    axes.margins(x=0.12)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run them."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    chosen = [each for each in BENCHMARKS if not options.only or each.name in options.only]
    missing: dict[str, str] = {}
    facts: dict[str, Any] = {"cores": os.cpu_count(), "load_before": os.getloadavg()}
    for each in chosen:
        begin = time.monotonic()
        fault = run(each, options.out)
        seconds = time.monotonic() - begin
        if fault:
            missing[each.name] = fault
        sys.stderr.write(f"{each.name}: {fault or f'done in {seconds:.0f} s'}\n")
        facts[each.name] = {"seconds": round(seconds), "fault": fault}
        (options.out / "suite.json").write_text(json.dumps(facts | {"load_after": os.getloadavg()}, indent=1) + "\n")
    sys.stdout.write(f"{options.out}: {len(chosen) - len(missing)} of {len(chosen)} benchmarks\n")
    if len(missing) == len(chosen):
        raise common.Missing("none could run")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [each.name for each in BENCHMARKS]
    parser.add_argument("--only", action="append", choices=names, help="only this one (may be repeated)")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), metavar="FOLDER", help="where results go")
    return parser.parse_args()


if __name__ == "__main__":
    common.run(main)
