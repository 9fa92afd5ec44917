"""The benchmark of growth runs from end to end on few rows."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import growth


def test_few_rows_make_a_table_a_file_and_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "growth.json"
    sizes = ["--images", "30", "--images", "60", "--waiting", "5", "--in-a-row", "100", "--rounds", "2"]
    monkeypatch.setattr(
        sys, "argv", ["growth", *sizes, "--database", "SQLite", "--tmp", str(tmp_path), "--out", str(out)]
    )
    growth.main()
    printed = capsys.readouterr().out
    assert "| claim it |" in printed
    assert "100 images in a row" in printed
    result = json.loads(out.read_text())
    few, many = result["runs"]["SQLite"]
    assert (few["images"], many["images"]) == (30, 60)
    assert few["rows"] < many["rows"]
    assert few["milliseconds"]["life"].keys() == many["milliseconds"]["life"].keys()
    assert {kind: len(means) for kind, means in result["in_a_row"]["SQLite"].items()} == {"wall": 1, "cpu": 1}
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.glob("*.sqlite*")) == []
