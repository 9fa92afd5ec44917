"""How long starting takes: the help of `cxrd`, `cxrd serve` until it listens, `cxrd analyze` of one image.

    .venv/bin/python -m benchmarks.start [--rounds 5] [--ledger URL] [--out FILE.json]

Wall time and CPU time, medians. On a busy machine the wall time says little. What Python has compiled stays, so the
first round, which does not count, may compile it. `--ledger` takes a ledger that holds rows (`growth.py` makes such).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from benchmarks import common
from worker.demo.orthanc import free_port

_PATIENCE = 120.0
_CXRD = (sys.executable, "-m", "worker")


@dataclass(frozen=True)
class Start:
    """One start: seconds until it had done what it is timed for, and the CPU seconds of all its processes till then."""

    wall: float
    cpu: float


def command(*arguments: str) -> Start:
    """Time a command that ends."""
    begin, before = time.perf_counter(), _children()
    done = subprocess.run([*_CXRD, *arguments], capture_output=True, text=True, check=False)
    wall = time.perf_counter() - begin
    if done.returncode:
        raise common.Missing(f"cxrd {arguments[0]}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return Start(wall, _children() - before)


def serve(config: Path) -> Start:
    """Time `cxrd serve` until its log says that it listens; then end it."""
    begin = time.perf_counter()
    child = subprocess.Popen(
        [*_CXRD, "serve", "--config", str(config)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        for line in child.stdout or ():
            if '"listening"' in line:
                return Start(time.perf_counter() - begin, _cpu(child.pid))
            if time.perf_counter() - begin > _PATIENCE:
                break
        raise common.Missing("cxrd serve did not listen")
    finally:
        child.send_signal(signal.SIGTERM)
        child.communicate()


def _cpu(pid: int) -> float:
    """Return the CPU seconds of a process and its children so far."""
    family = [pid]
    for each in family:  # grows while we walk
        for task in Path(f"/proc/{each}/task").glob("*/children"):
            family.extend(map(int, task.read_text().split()))
    ticks = 0
    for each in family:
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def _children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def main() -> None:
    """Run it."""
    options = _options()
    rounds: dict[str, list[Start]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (file,) = common.radiographs(folder / "images", 1).files
        config = folder / "config.yaml"
        settings = {
            "scp": {"host": "127.0.0.1", "port": free_port()},
            "storage": {"folder": str(folder / "data"), "min_free_mb": 0},
            "health": {"port": 0},
            "logging": {"format": "json"},
            "audit": {"patient_id": "plain"},  # generated rows come without the key of their pseudonyms
        } | ({"ledger": {"url": options.ledger}} if options.ledger else {})
        config.write_text(yaml.safe_dump(settings))
        for number in range(options.rounds + 1):
            starts = {
                "help": command("--help"),
                "serve, until it listens": serve(config),
                "analyze, one image": command(
                    "analyze", str(file), "--out", str(folder / "out"), "--config", str(config)
                ),
            }
            for what, start in starts.items():
                rounds.setdefault(what, []).extend([start] if number else [])
    medians = {
        what: Start(statistics.median(each.wall for each in own), statistics.median(each.cpu for each in own))
        for what, own in rounds.items()
    }
    load = os.getloadavg()[0]
    sys.stdout.write(f"{os.cpu_count()} cores, load {load:.1f}, medians of {options.rounds}\n\n")
    sys.stdout.write("| | wall s | CPU s |\n|---|---:|---:|\n")
    for what, each in medians.items():
        sys.stdout.write(f"| {what} | {each.wall:.2f} | {each.cpu:.2f} |\n")
    if options.out:
        result = {"load": load, "rounds": {what: [asdict(each) for each in own] for what, own in rounds.items()}}
        options.out.write_text(json.dumps(result | {"medians": {k: asdict(v) for k, v in medians.items()}}, indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=common.at_least_one, default=5, help="rounds to take the medians of")
    parser.add_argument("--ledger", metavar="URL", help="of a database that holds rows; default: an empty one")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the numbers as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    common.run(main)
