"""`make bench`: each benchmark's numbers become a file and a picture; one that cannot run holds up no other."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import suite
from benchmarks.suite import BENCHMARKS, Benchmark, run


def program(code: str) -> Sequence[str]:
    """Return what runs a text in place of a benchmark; its arguments follow the module's name."""
    return (sys.executable, "-c", code)


def test_what_it_prints_as_json_becomes_a_file_and_a_picture(tmp_path: Path) -> None:
    stages = next(each for each in BENCHMARKS if each.name == "stages")
    numbers = {"stages": [{"name": "read", "wall": 5.0, "cpu": 4.0}], "network": []}
    assert run(stages, tmp_path, program(f"print('{json.dumps(numbers)}')")) == ""
    assert json.loads((tmp_path / "stages.json").read_text()) == numbers
    assert (tmp_path / "stages.png").read_bytes().startswith(b"\x89PNG")


def test_what_it_writes_itself_stays_and_its_table_stands_beside_it(tmp_path: Path) -> None:
    growth = Benchmark("growth", ["--out", "{out}"])
    assert run(growth, tmp_path, program("import sys; print('| a |'); open(sys.argv[-1], 'w').write('{}')")) == ""
    assert (tmp_path / "growth.md").read_text() == "| a |\n"
    assert (tmp_path / "growth.json").read_text() == "{}"


def test_one_without_numbers_of_its_own_keeps_its_table(tmp_path: Path) -> None:
    assert run(Benchmark("backlog", []), tmp_path, program("print('| 1 |')")) == ""
    assert json.loads((tmp_path / "backlog.json").read_text()) == {"table": ["| 1 |"]}


def test_what_is_missing_is_said_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {"start": "start.py: no DCMTK", "results": ""}
    monkeypatch.setattr(suite, "run", lambda benchmark, _folder: said[benchmark.name])
    monkeypatch.setattr(sys, "argv", ["suite", "--only", "start", "--only", "results", "--out", str(tmp_path)])
    suite.main()
    assert "start: start.py: no DCMTK" in capsys.readouterr().err
    facts = json.loads((tmp_path / "suite.json").read_text())
    assert (facts["start"]["fault"], facts["results"]["fault"]) == ("start.py: no DCMTK", "")


def test_an_error_is_the_last_line_of_the_program(tmp_path: Path) -> None:
    code = "import sys; sys.stderr.write('a\\nstages.py: nothing here\\n'); sys.exit(2)"
    assert run(Benchmark("stages", ["--json"]), tmp_path, program(code)) == "stages.py: nothing here"


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda each: each.name)
def test_each_benchmark_is_a_program_of_this_folder(benchmark: Benchmark) -> None:
    assert Path(suite.__file__).with_name(f"{benchmark.name}.py").exists()
