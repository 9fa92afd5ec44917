"""How the command line ends on mistakes: each is a line of its own, and none is a traceback."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from worker.cli.app import main


def test_each_mistake_in_the_settings_has_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("scp: {prt: 1}\nfoo: 1\n")
    monkeypatch.setattr(sys, "argv", ["cxrd", "check", "--config", str(file)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines() == [
        f"cxrd: {file}:1: scp.prt: unknown setting; did you mean port?",
        f"cxrd: {file}:2: foo: unknown setting",
    ]
