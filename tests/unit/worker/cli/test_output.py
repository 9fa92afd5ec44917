"""Tables of the ledger's rows: what senders wrote is shown as it is."""

from __future__ import annotations

import pytest

from worker.cli import output


def test_what_senders_wrote_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.rows(
        [{"accession_number": "\x1b[2J[red]A1[/red]", "probability": 0.5}], "table", ["accession_number", "probability"]
    )
    shown = capsys.readouterr().out
    assert r"\x1b[2J[red]A1[/red]" in shown
    assert "\x1b" not in shown
    assert "0.500" in shown
