"""A fixed thousand cases of damaged input, and what the runner says of faults. `make fuzz` runs thirty thousand."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.campaign import HARNESSES, NAMES, Entry, repeat, run
from tests.fuzz.harness import Fault

SEED = 19


class Quiet:
    """A harness whose every case is well."""

    bound_mb = 30.0
    children = 0

    def case(self, chance: Random) -> bytes:
        return chance.randbytes(4)

    def run(self, data: bytes) -> str:
        return "well"

    def leftovers(self) -> list[str]:
        return []

    def close(self) -> None:
        pass


class Faulty(Quiet):
    """One that does all that a case must not do, one after the other."""

    def __init__(self) -> None:
        self._number = -9  # eight cases do not count
        self._memory: list[bytes] = []

    def run(self, data: bytes) -> str:
        self._number += 1
        match self._number:
            case 0:
                raise ValueError("no CxrdError")
            case 1:
                raise Fault("a fault of its own")
            case 2:
                self._memory.append(b"x" * 50_000_000)
            case 3:
                self._memory.clear()
                os.write(2, b"Traceback (most recent call last):\n")
            case 4:
                os.write(2, b'{"event": "thread_ended"}\n')
            case 5:
                subprocess.Popen(["/bin/sleep", "2"])
            case 6:
                Path("file").touch()
            case 7:
                os.kill(os.getpid(), signal.SIGSEGV)
        return "well"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_thousand_cases(name: str, tmp_path: Path) -> None:
    (outcome,) = run([name], SEED, HARNESSES[name].share, tmp_path)
    assert outcome.faults == []
    assert outcome.cases == HARNESSES[name].share
    assert len(outcome.ends) >= 2, outcome.ends  # some of the damage is noticed, some is not


def test_the_shares_are_a_thousand() -> None:
    assert sum(each.share for each in HARNESSES.values()) == 1000


def test_each_fault_is_noticed_and_its_case_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HARNESSES, "faulty", Entry("tests.fuzz.test_fuzz:Faulty", 1, patience=0.2))
    (outcome,) = run(["faulty"], 7, 8, tmp_path)
    expected = (
        *("unexpected ValueError", "a fault of its own", "memory grew by", "printed: Traceback", "logged: "),
        *("left 1 processes", "left a file: file", "it ended the process with -11"),
    )
    for number, words in enumerate(expected):
        fault = next(each for each in outcome.faults if each.startswith(f"faulty, seed 7, number {number}: {words}"))
        path = tmp_path / f"faulty-7-{number}"
        assert path.read_bytes() == Random(f"7 faulty {number}").randbytes(4)
        assert f"make fuzz ARGS='--harness faulty --file {path}'" in fault


def test_a_kept_case_is_run_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HARNESSES, "quiet", Entry("tests.fuzz.test_fuzz:Quiet", 1))
    case = tmp_path / "case"
    case.write_bytes(b"any")
    outcome = repeat("quiet", 0, None, case, tmp_path)
    assert (outcome.cases, outcome.faults) == (1, [])
