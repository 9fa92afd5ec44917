"""Second readings of what had been left out, and of what an earlier model has answered already: after a rollback."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest

from dicom_io.errors import InvalidSettings
from dicom_io.finding import Finding, Lungs
from modeltrain.model.card import load_card, shipped_model
from tests.support.ledgers import again_of, fail, leave_out, record_again
from tests.support.models import tiny
from tests.support.peers import chest
from tests.support.printed import labelled
from tests.unit.worker.engines.test_pipeline import Bench
from tests.unit.worker.ledger.test_reanalyses import NEW_MODEL, NEWER, first, intact
from tests.unit.worker.ledger.test_receipts import FINDING, NOON, SECOND, kinds, received
from worker.cli.app import app
from worker.clock import now
from worker.engines.analysis import outside_reason
from worker.inference.analyzer import Reader
from worker.ledger.database import open_ledger
from worker.ledger.queries import Filter, findings, story
from worker.ledger.reanalyses import Criteria, Reanalyses, Selection
from worker.ledger.receipts import Ledger
from worker.ledger.records import OUTSIDE
from worker.queue.task import Kind
from worker.settings import ModelSettings, Results, Settings, load


def left_out(ledger: Ledger, uid: str, reason: str, **changes: Any) -> int:
    number = received(ledger, sop_instance_uid=uid, **changes)
    leave_out(ledger, number, reason, changes.get("received_at", NOON))
    return number


def test_what_a_gate_left_out_is_read_where_that_is_asked_for(ledger: Ledger) -> None:
    answered = first(ledger, "1.1")
    gated = left_out(ledger, "1.2", "outside the trained population (score 1.20)")
    lateral = left_out(ledger, "1.3", "view position LL, which is not frontal", received_at=NOON + 60 * SECOND)
    own = left_out(ledger, "1.4", "own output")
    fail(ledger, received(ledger, sop_instance_uid="1.5"), "outside, it says", NOON)
    again = Reanalyses(ledger)

    def chosen(**wanted: Any) -> list[int]:
        return list(again.choose(Criteria(**wanted), NEW_MODEL[1]).receipt_ids)

    assert chosen() == [answered]
    assert chosen(also=OUTSIDE) == [gated, answered]
    assert chosen(also=OUTSIDE, receipt_ids=(gated, own)) == [gated]
    assert chosen(reason="view") == [lateral]
    assert chosen(reason="VIEW position ll") == [lateral]
    assert chosen(reason="view", until=NOON) == []
    assert chosen(reason="%view") == chosen(reason="position") == []  # its beginning, letter by letter
    assert chosen(reason=OUTSIDE) == [gated]


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (Finding(0.9, "PNEUMONIA", 0.5, outlier=1.2), "outside: not like the images the model was made for"),
        (Finding(0.9, "PNEUMONIA", 0.5, lungs=Lungs(0.0, 0)), "outside: no lungs found"),
        (
            Finding(0.9, "PNEUMONIA", 0.5, outlier=1.0, age_outside=True),
            "outside: the patient's age is not one that the model was made for",
        ),
    ],
)
def test_the_reason_says_what_is_outside(found: Finding, reason: str) -> None:
    assert outside_reason(found) == reason
    assert reason.startswith(OUTSIDE)  # by which `cxrd reanalyze --include-not-analysed` finds it


def test_one_that_was_left_out_becomes_an_analysed_one(ledger: Ledger) -> None:
    number = left_out(ledger, "1.2", "outside: no lungs found")
    again = Reanalyses(ledger)
    again.request([number], *NEW_MODEL, "jd", NOON)
    assert findings(ledger, Filter())[0]["status"] == "not_analysed"  # until there is an answer
    desk, claim = again_of(ledger, number, NOON)
    desk.leave_out(claim, "outside again", NOON)
    (row,) = findings(ledger, Filter())
    assert (row["status"], row["reason"], row["reanalysis"]) == (
        "not_analysed",
        "outside: no lungs found",
        "left_out",
    )
    assert again.choose(Criteria(also=OUTSIDE), NEW_MODEL[1]) == Selection((), 0, 0, 1)
    again.request([number], *NEW_MODEL, "jd", NOON)
    record_again(ledger, number, NEWER, [], NOON + SECOND)
    (row,) = findings(ledger, Filter())
    assert (row["status"], row["reason"], row["answer"], row["answers"]) == ("analysed", "", "not flagged", 1)
    assert ledger.counts() == {"analysed": 1}
    assert kinds(ledger, number)[:3] == ["received", "not_analysed", "reanalysis_requested"]
    assert kinds(ledger, number)[-1] == "reanalysed"
    assert intact(ledger)
    with ledger.writing() as connection:
        connection.exec_driver_sql("UPDATE receipt SET state = 'not_analysed'")
    assert not intact(ledger)


def test_after_a_rollback_what_the_model_had_answered_is_answered_already(ledger: Ledger) -> None:
    """The work would come out the same, under the same UIDs: nothing is to be sent, and no record rewritten."""
    both, other = first(ledger, "1.1"), first(ledger, "1.2")
    again = Reanalyses(ledger)
    again.request([both], *NEW_MODEL, "jd", NOON)
    record_again(ledger, both, NEWER, [], NOON)
    old = FINDING.model.digest
    assert again.choose(Criteria(), old) == Selection((), 2, 0, 0, superseded=1)
    assert again.choose(Criteria(receipt_ids=(both, other)), old).receipt_ids == ()
    assert [row["model"] for row in findings(ledger, Filter())] == ["net-1.0.0", "net-2.0.0"]
    # What the first model said is in the history, for whoever wants its answers alone.
    history = findings(ledger, Filter(history=True))
    assert {row["receipt_id"] for row in history if row["model_sha256"] == old} == {both, other}
    # A third model reads both, whichever answer stands.
    assert again.choose(Criteria(), "d" * 64).receipt_ids == (other, both)


# ---- through the pipeline ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A newer model, whose gate nobody asks."""
    made = Reader(Settings(), tiny(tmp_path_factory.mktemp("models") / "net", bias=60.0))
    yield made
    made.close()


def test_the_new_report_takes_the_place_of_the_one_that_nothing_was_analysed(
    tmp_path: Path, reader: Reader, wider: Reader
) -> None:
    if reader.decider.greatest_age > 39:
        pytest.skip("the shipped model states another population")
    bench = Bench(tmp_path, reader)
    strict = Settings(results=Results(report_not_analysed=True), destinations=())
    bench.pipeline._settings = strict
    number = bench.put(chest("adult", PatientAge="040Y"))
    bench.process(number)
    assert bench.row(number)["status"] == "not_analysed"
    work = Reanalyses(bench.ledger)
    (chosen,) = work.choose(Criteria(also=OUTSIDE), wider.identity.digest).receipt_ids
    work.request([chosen], wider.card.label, wider.identity.digest, "jd", now())
    warn = ModelSettings(out_of_distribution="warn")
    bench.process(number, bench.pipeline_of(wider, model=warn), Kind.REANALYSE)
    row = bench.row(number)
    assert (row["status"], row["answer"], row["reason"]) == ("analysed", "outside", "")
    found = story(bench.ledger, str(number))
    assert found is not None
    reports = [each for each in found["results"] if each["kind"] == "structured-report"]
    assert [each["finding_id"] is None for each in reports] == [True, False]
    data = bench.blobs.path(reports[1]["sha256"]).read_bytes()
    (study,) = pydicom.dcmread(BytesIO(data)).PredecessorDocumentsSequence
    named = study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID
    assert named == reports[0]["sop_instance_uid"]


# ---- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(f"storage: {{folder: {tmp_path / 'data'}, min_free_mb: 0}}\n")
    return path


def counted(config: Path, capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, str]:
    capsys.readouterr()
    app(["reanalyze", *words, "--dry-run", "--config", str(config)], standalone_mode=False)
    return labelled(capsys.readouterr().out)


def test_the_command_counts_them(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = open_ledger(load(config))
    number = first(ledger, "1.1")
    left_out(ledger, "1.2", "outside: no lungs found")
    left_out(ledger, "1.3", "view position LL")
    assert counted(config, capsys, "--all")["Would be read again"] == "1"
    assert counted(config, capsys, "--all", "--include-not-analysed")["Would be read again"] == "2"
    assert counted(config, capsys, "--reason", "view")["Would be read again"] == "1"
    assert counted(config, capsys, "--all")["of these, another model answered later"] == "0"
    # The shipped model answers, and after it another one, which is withdrawn.
    again = Reanalyses(ledger)
    for model in (load_card(shipped_model()).sha256, "d" * 64):
        again.request([number], "net", model, "jd", NOON)
        record_again(ledger, number, replace(NEWER, model=replace(NEWER.model, digest=model)), [], NOON)
    counts = counted(config, capsys, "--all")
    assert (counts["Already answered by this model"], counts["of these, another model answered later"]) == ("1", "1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--include-not-analysed"], "name the images by"),
        (["--model", "net", "--include-not-analysed"], "have none"),
        (["--model", "net", "--reason", "view"], "have none"),
        (["--all", "--reason", "view"], "--all goes with none"),
    ],
)
def test_a_mistake_is_one_line(config: Path, words: list[str], said: str) -> None:
    with pytest.raises(InvalidSettings, match=said):
        app(["reanalyze", *words, "--config", str(config)], standalone_mode=False)
