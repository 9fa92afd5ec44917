"""Runs harnesses, each in a process of its own, and says how their cases ended."""

from __future__ import annotations

import importlib
import json
import os
import select
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import IO, Any

from tests.fuzz.harness import Harness

ROOT = Path(__file__).resolve().parents[2]
_HANGS = 180.0
"""Seconds after which a case that has not ended hangs."""
_MOST_FAULTS = 20
"""Faults after which a harness is not run any further."""


@dataclass(frozen=True)
class Entry:
    """A harness: its module and class, and how many of a thousand cases are its own."""

    place: str
    share: int
    patience: float = 20.0
    """Seconds that what a case started may take to end."""


HARNESSES = {
    "node": Entry("tests.fuzz.node:Node", 200),
    "headers": Entry("tests.fuzz.data_sets:Headers", 240),
    "pixels": Entry("tests.fuzz.data_sets:Pixels", 200),
    "analysis": Entry("tests.fuzz.data_sets:Analyses", 50),
    "nodes": Entry("tests.fuzz.peers:AnsweringNodes", 70),
    "hl7": Entry("tests.fuzz.answers:Acknowledgements", 60),
    "stow": Entry("tests.fuzz.answers:Stow", 50),
    "qido": Entry("tests.fuzz.answers:Qido", 30),
    "wado": Entry("tests.fuzz.answers:Wado", 30),
    "webhook": Entry("tests.fuzz.answers:Webhooks", 20),
    "settings": Entry("tests.fuzz.texts:SettingsFiles", 50),
}
NAMES = tuple(HARNESSES)


@dataclass(frozen=True)
class Plan:
    """Which cases a process runs: `count` from number `first` on, or the bytes of a file alone."""

    harness: str
    place: str
    patience: float
    seed: int
    first: int
    count: int
    folder: str
    file: str = ""

    def load(self) -> Harness:
        """Start the harness."""
        module, _, name = self.place.partition(":")
        made: Harness = getattr(importlib.import_module(module), name)()
        return made

    @property
    def numbers(self) -> range:
        """The numbers of the cases."""
        return range(self.first, self.first + self.count)

    def data(self, harness: Harness, number: int) -> bytes:
        """Return the bytes of a case: they follow from seed, harness and number alone."""
        if self.file and number >= 0:
            return Path(self.file).read_bytes()
        return harness.case(Random(f"{self.seed} {self.harness} {number}"))


@dataclass
class Outcome:
    """How the cases of a harness ended."""

    name: str
    ends: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    cases: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    most_mb: float = 0.0

    def table(self) -> str:
        """Return it in lines for a person."""
        head = (
            f"{self.name}: {self.cases} cases, {self.seconds:.0f} s, the slowest {self.slowest:.1f} s, "
            f"memory at most +{self.most_mb:.0f} MB, {len(self.faults)} faults"
        )
        return "\n".join([head, *(f"{count:7d}  {end}" for end, count in self.ends.most_common(12))])


def run(names: Sequence[str], seed: int, cases: int, out: Path, jobs: int = 2) -> list[Outcome]:
    """Run cases, divided among harnesses by their shares; the longest harnesses begin."""
    whole = sum(HARNESSES[name].share for name in names)
    with ThreadPoolExecutor(jobs) as pool:
        counts = {name: max(1, round(cases * HARNESSES[name].share / whole)) for name in names}
        return list(pool.map(lambda name: _run(name, seed, 0, counts[name], out), names))


def repeat(name: str, seed: int, number: int | None, file: Path | None, out: Path) -> Outcome:
    """Run one case again: that of a number, or the bytes of a file."""
    return _run(name, seed, number or 0, 1, out, str(file.resolve()) if file else "")


def _run(name: str, seed: int, first: int, count: int, out: Path, file: str = "") -> Outcome:
    """Run cases in one process after the other: what ends a process is a fault, and the next cases go on."""
    outcome, entry = Outcome(name), HARNESSES[name]
    while count > 0 and len(outcome.faults) < _MOST_FAULTS:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            done = _Run(Plan(name, entry.place, entry.patience, seed, first, count, folder, file), outcome, out).run()
        first, count = first + done, count - done
    return outcome


class _Run:
    """One process."""

    def __init__(self, plan: Plan, outcome: Outcome, out: Path) -> None:
        self._plan, self._outcome, self._out = plan, outcome, out
        self._folder = Path(plan.folder)

    def run(self) -> int:
        """Run it to its end, or to the end of a case that ended it; return how many cases that were."""
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-m", "tests.fuzz.worker", json.dumps(asdict(self._plan))]
        with (self._folder / "stderr").open("wb") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, cwd=ROOT, env=environment)
        assert process.stdout is not None
        try:
            return self._follow(process, process.stdout)
        finally:
            process.kill()
            process.stdout.close()
            process.wait()

    def _follow(self, process: subprocess.Popen[bytes], lines: IO[bytes]) -> int:
        current, done, has_begun = self._plan.first, 0, False
        while len(self._outcome.faults) < _MOST_FAULTS:
            if not select.select([lines], [], [], _HANGS)[0]:
                self._fault(current, f"it has not ended after {_HANGS:.0f} s")
                return done + 1
            text = lines.readline()
            if not text:
                code = process.wait(60)
                words = (self._folder / "stderr").read_text(errors="replace")[-1500:]
                self._fault(current, f"it ended the process with {code}: {words}")
                return done + 1 if has_begun else self._plan.count
            line = json.loads(text)
            if "begin" in line:
                current, has_begun = int(line["begin"]), True
            elif line["end"] is True:
                for each in line["faults"]:
                    self._fault(current, each)
                return max(done, self._plan.count)
            else:
                self._count(line)
                done += 1
        return self._plan.count

    def _count(self, line: dict[str, Any]) -> None:
        outcome = self._outcome
        outcome.cases += 1
        outcome.ends[line["end"]] += 1
        outcome.seconds += line["seconds"]
        outcome.slowest = max(outcome.slowest, line["seconds"])
        outcome.most_mb = max(outcome.most_mb, line["mb"])
        for each in line["faults"]:
            self._fault(line["number"], each)

    def _fault(self, number: int, words: str) -> None:
        """Keep the bytes of a case, and how to repeat it."""
        plan = self._plan
        self._out.mkdir(parents=True, exist_ok=True)
        path = self._out / f"{plan.harness}-{plan.seed}-{number}"
        kept = [each for each in (self._folder / f"case-{number}", self._folder / "case") if each.exists()]
        path.write_bytes(kept[0].read_bytes() if kept else b"")
        again = f"make fuzz ARGS='--harness {plan.harness} --file {path}'"
        self._outcome.faults.append(f"{plan.harness}, seed {plan.seed}, number {number}: {words}\n    again: {again}")
