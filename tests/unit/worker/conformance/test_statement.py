"""The conformance statement says what is configured, and what the code does."""

from __future__ import annotations

from typing import get_args

import pytest
from pydicom.uid import UID

from dicom_io.network.status import Verdict, verdict_of
from modeltrain.model.card import load_card, shipped_model
from worker.conformance.initiator import _STORE_STATUSES
from worker.conformance.objects import _contents
from worker.conformance.statement import statement
from worker.destination_settings import DicomDestination, Kind
from worker.results.kinds import KINDS
from worker.settings import Results, RulesSettings, Scp, Settings


def test_it_has_the_chapters_of_the_standard_and_the_installation_s_own_names() -> None:
    settings = Settings(
        scp=Scp(ae_title="CHEST1", port=4242, allowed_calling=("PACS1", "CR2"), require_called=True),
        rules=RulesSettings(min_age_years=1, max_age_years=5.9),
        destinations=(
            DicomDestination(name="pacs", host="10.0.0.5", port=104, ae_title="PACS", kinds=("secondary-capture",)),
        ),
    )
    said = statement(settings, load_card(shipped_model()))
    chapters = [line for line in said.splitlines() if line.startswith("## ")]
    assert [line.split()[1] for line in chapters] == ["1", "2", "3", "4", "5", "6", "7"]
    for words in ("CHEST1", "PACS1, CR2", ":4242", "from 1 to 5.9 years", "233604007", "JPEG 2000", "2.25"):
        assert words in said
    assert "| pacs | PACS | 10.0.0.5:104 | CHEST1 | Secondary Capture Image Storage |" in said
    assert load_card(shipped_model()).sha256 in said


def test_it_says_what_is_in_each_kind_of_result() -> None:
    kinds = {kind for kind, _ in _contents(Settings())}
    assert kinds == set(KINDS)
    said = statement(Settings(results=Results(kinds=get_args(Kind))), load_card(shipped_model()))
    for name, kind in KINDS.items():
        number = Results().series_number + kind.series_offset
        assert f"| {name} | {UID(kind.sop_class).name} | {kind.modality} | {number} | {kind.sop_class} |" in said


def test_without_a_destination_it_sends_nothing() -> None:
    said = statement(Settings(results=Results(kinds=("structured-report",))), load_card(shipped_model()))
    assert "results stay in the storage folder" in said
    assert "| Comprehensive 3D SR Storage | no | yes |" in said
    assert "presentation-state" not in said


@pytest.mark.parametrize(("codes", "follows"), [(codes, follows) for codes, _, follows in _STORE_STATUSES])
def test_its_statuses_are_those_of_the_outbox(codes: str, follows: str) -> None:
    expected = {"*sent*": Verdict.SENT, "*failed*": Verdict.REFUSED}
    verdict = next((value for word, value in expected.items() if word in follows), Verdict.RETRY)
    for code in codes.replace(";", ",").split(","):
        if code.strip().startswith("0x"):
            assert verdict_of(int(code.strip().replace("x", "", 1).replace("x", "1"), 16)) is verdict, code


def test_the_settings_name_every_kind_of_result() -> None:
    assert set(get_args(Kind)) == set(KINDS)


@pytest.mark.parametrize(("duplicates", "refuses"), [("version", False), ("refuse", True)])
def test_it_says_what_becomes_of_another_content(duplicates: str, refuses: bool) -> None:
    words = statement(Settings(scp=Scp.model_validate({"duplicates": duplicates})), load_card(shipped_model()))
    assert ("0x0111 | Duplicate SOP Instance" in words) is refuses
    assert ("analysed as a further version" in words) is not refuses


def test_it_says_how_audit_messages_go() -> None:
    for url, words in (
        ("", "No audit trail messages (PS3.15 A.5) are sent"),
        ("tls://loghost", "by SYSLOG-TLS (PS3.15 A.6)"),
        ("udp://loghost", "by SYSLOG-UDP (PS3.15 A.7)"),
    ):
        settings = Settings.model_validate({"audit": {"syslog": {"url": url}}})
        assert words in statement(settings, load_card(shipped_model()))
