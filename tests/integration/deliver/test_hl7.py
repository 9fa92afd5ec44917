"""HL7 v2: the message as others read it, every kind of acknowledgement, and a daemon that tells of flagged images."""

from __future__ import annotations

import datetime as dt
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.parser import parse_message

from dicom_io.errors import AssociationLost, Declined, InvalidSettings, NotNow, PeerUnavailable
from dicom_io.header.source_image import source_image
from tests.support.mllp import acknowledgement, foreign_receiver, parsed, receiver
from tests.support.models import tiny
from tests.support.peers import chest, send, wait_for
from tests.unit.worker.results.test_result_set import FINDING, MODEL
from worker.deliver.hl7_message import control_id, escaped, message
from worker.deliver.mllp import Hl7Peer, addressed, connect, judged
from worker.deliver.routing import takers
from worker.destination_settings import DicomDestination, Hl7Destination, WebhookDestination
from worker.engines.daemon import Daemon
from worker.ledger.queries import Filter, findings, story
from worker.settings import Settings, load

NOON = dt.datetime(2026, 1, 31, 12, 0, tzinfo=dt.timezone(dt.timedelta(hours=1)))
KINDS = ("secondary-capture", "structured-report", "notification", "oru")


def made(**attributes: Any) -> bytes:
    return message(source_image(chest("hl7", **attributes)), FINDING, MODEL, created=NOON, sender="CXRD")[1]


def field(told: Any, segment: str, number: int, component: int = 1, repetition: int = 1) -> str:
    """Return a component as python-hl7 reads it: separators unescaped."""
    return str(told.extract_field(segment, 1, number, repetition, component))


# ---- the message ----------------------------------------------------------------------------------------------------


def test_it_says_what_was_found_of_whom_and_where() -> None:
    source = chest("hl7", PatientName="Geheimnis^Gerda", PatientID="P-1", AccessionNumber="A77", PatientSex="F")
    source.IssuerOfPatientID = "CLINIC"
    uid, body = message(source_image(source), FINDING, MODEL, created=NOON, sender="CXRD")
    told = parsed(body)
    assert [str(segment[0]) for segment in told][:4] == ["MSH", "PID", "OBR", "NTE"]
    assert (field(told, "MSH", 3), str(told["MSH"][0][9]), field(told, "MSH", 12)) == (
        "CXRD",
        "ORU^R01^ORU_R01",
        "2.5.1",
    )
    assert (field(told, "MSH", 7), field(told, "MSH", 11), field(told, "MSH", 18)) == (
        "20260131120000+0100",
        "P",
        "UNICODE UTF-8",
    )
    assert field(told, "MSH", 10) == control_id(uid)
    assert (field(told, "PID", 3), field(told, "PID", 3, 4), field(told, "PID", 8)) == ("P-1", "CLINIC", "F")
    assert (field(told, "PID", 5, 1), field(told, "PID", 5, 2)) == ("Geheimnis", "Gerda")
    assert (field(told, "OBR", 3), field(told, "OBR", 18), field(told, "OBR", 25)) == ("A77", "A77", "P")
    assert field(told, "NTE", 3) == "For research use. Not for diagnosis."
    seen = {str(each[3][0][0]): each for each in told["OBX"]}
    assert str(seen["233604007"][5]) == "52101004^Present^SCT"
    assert str(seen["answer"][5]) == "flagged^Flagged: evidence for pneumonia^99CXRD"
    assert {name: str(seen[name][8]) for name in ("233604007", "answer", "122157")} == {
        "233604007": "A",
        "answer": "A",
        "122157": "H",
    }
    assert (str(seen["122157"][5]), str(seen["122157"][7])) == ("0.9340", "<0.4100")
    assert str(seen["110180"][5]) == source.StudyInstanceUID
    assert str(seen["SOPInstanceUID"][5]) == source.SOPInstanceUID
    assert {str(each[11]) for each in told["OBX"]} == {"P"}


def test_hl7apy_finds_it_valid_and_it_is_the_same_each_time() -> None:
    body = made(PatientName="Doe^Jane")
    assert parse_message(body.decode(), validation_level=VALIDATION_LEVEL.STRICT).validate()
    assert made(PatientName="Doe^Jane") == body
    one, _ = message(source_image(chest("hl7")), FINDING, MODEL, created=NOON, sender="CXRD")
    other, _ = message(source_image(chest("hl7")), FINDING, replace(MODEL, version="2"), created=NOON, sender="CXRD")
    assert one != other
    assert len({control_id(one), control_id(other)}) == 2
    assert len(control_id(one)) == 20


@pytest.mark.parametrize(
    ("name", "charset", "expected"),
    [
        ("Müller-Lüdenscheidt^Jörg^^Dr.^Jr", "ISO_IR 100", [("Müller-Lüdenscheidt", "Jörg", "Jr", "Dr.", "A")]),
        (
            "Yamada^Tarou=山田^太郎=やまだ^たろう",
            ["", "ISO 2022 IR 87"],
            [("Yamada", "Tarou", "", "", "A"), ("山田", "太郎", "", "", "I"), ("やまだ", "たろう", "", "", "P")],
        ),
        ("=王^小東", "GB18030", [("王", "小東", "", "", "I")]),
        ("Διονυσιος", "ISO_IR 126", [("Διονυσιος", "", "", "", "A")]),
        ("O'Brien & Söhne|~x^A~B", "ISO_IR 192", [("O'Brien & Söhne|~x", "A~B", "", "", "A")]),
    ],
)
def test_names_arrive_as_they_were_written(name: str, charset: Any, expected: list[tuple[str, ...]]) -> None:
    source = chest("hl7", PatientName=name)
    source.SpecificCharacterSet = charset
    body = message(source_image(source), FINDING, MODEL, created=NOON, sender="CXRD")[1]
    told = parsed(body)
    assert len(told["PID"][0][5]) == len(expected)
    for number, (family, given, suffix, prefix, way) in enumerate(expected, start=1):
        got = [field(told, "PID", 5, at, number) for at in (1, 2, 8)]
        assert got == [family, given, way]
        assert [str(told["PID"][0][5](number)(at)) if at < 9 else "" for at in (4, 5)] == [suffix, prefix]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a|b^c~d\\e&f", "a\\F\\b\\S\\c\\R\\d\\E\\e\\T\\f"),
        ("\\F\\", "\\E\\F\\E\\"),  # what looks escaped is escaped all the same
        ("a\rMSH|x\n\x0b\x1c", "aMSH\\F\\x"),
        ("山田", "山田"),
    ],
)
def test_separators_are_escaped_and_nothing_ends_a_segment(value: str, expected: str) -> None:
    assert escaped(value) == expected
    body = made(PatientID=value.replace("\\", ""), AccessionNumber=value.replace("\\", "")[:16])
    assert len(parsed(body)["PID"]) == 1
    assert b"\x0b" not in body
    assert b"\x1c" not in body


def test_what_looks_escaped_passes_hl7apy_unchanged() -> None:
    body = made(IssuerOfPatientID="x", AccessionNumber="A")
    source = chest("hl7")
    source.RequestedProcedureID = "a&b|c"
    told = parsed(message(source_image(source), FINDING, MODEL, created=NOON, sender="C\\F\\X")[1])
    assert (field(told, "MSH", 3), field(told, "OBR", 19)) == ("C\\F\\X", "a&b|c")
    assert body.endswith(b"\r")


def test_a_header_without_anything_still_makes_a_message() -> None:
    source = chest("hl7")
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyDate"):
        if keyword in source:
            delattr(source, keyword)
    told = parsed(message(source_image(source), FINDING, MODEL, created=NOON, sender="CXRD")[1])
    assert field(told, "PID", 8) == "U"


# ---- the answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected", "words"),
    [
        ("AE", Declined, "answers AE"),
        ("AE ERR||PID^1|101^Required field missing^HL70357|E", Declined, "AE, error 101"),
        ("AE ERR|||207^Application internal error^HL70357|E", NotNow, "AE, error 207"),
        ("AE ERR|PID^1^5^206", NotNow, "AE, error 206"),
        ("AR", NotNow, "answers AR"),
        ("AR ERR|||207^x^HL70357|E", NotNow, "AR, error 207"),
        ("AR ERR|||200^Unsupported message type^HL70357|E", Declined, "AR, error 200"),
        ("AR ERR|||203^x^HL70357|E", Declined, "AR, error 203"),
        ("CE", Declined, "answers CE"),
        ("CR", NotNow, "answers CR"),
        ("AE ERR|||Mustermann^Max|E", Declined, "answers AE$"),  # what we do not know is not repeated
        ("XX", NotNow, "does not acknowledge this message"),
        ("other", NotNow, "does not acknowledge this message"),
        ("unnamed", NotNow, "does not acknowledge this message"),
        ("garbage", PeerUnavailable, "does not speak MLLP"),
        ("close", AssociationLost, "closes the connection without an answer"),
        ("cut", AssociationLost, "closes the connection without an answer"),
        ("endless", PeerUnavailable, "does not speak MLLP"),
        ("silence", AssociationLost, "does not answer in time"),
        ("trickle", AssociationLost, "does not answer in time"),
    ],
)
def test_an_answer_decides_whether_it_is_sent_again(answer: str, expected: type[Exception], words: str) -> None:
    with receiver() as there, connect(Hl7Peer("127.0.0.1", there.port, timeout=1)) as delivery:
        there.answers = [answer]
        begun = time.monotonic()
        with pytest.raises(expected, match=words) as told:
            delivery.send(made(PatientName="Mustermann^Max"))
        assert "Mustermann" not in str(told.value)
        assert time.monotonic() - begun < 5
        assert delivery.send(made()) == "AA"  # and afterwards all is well
        assert there.messages[0].split(b"|")[9] == there.messages[1].split(b"|")[9]  # under the same name


def test_one_connection_carries_several_and_a_closed_one_is_made_anew() -> None:
    with receiver() as there, connect(Hl7Peer("127.0.0.1", there.port, timeout=5)) as delivery:
        for _ in range(3):
            delivery.send(made())
        assert there.connections == 1
        for answer in ("hang-up", "chatty", "AA"):
            there.answers = [answer]
            delivery.send(made())
            time.sleep(0.2)
        assert there.connections == 3
        assert len(there.messages) == 6


def test_nobody_there() -> None:
    with receiver() as there:
        port = there.port
    with (
        connect(Hl7Peer("127.0.0.1", port, timeout=2)) as delivery,
        pytest.raises(PeerUnavailable, match="reached"),
    ):
        delivery.send(made())


def test_a_receiver_with_other_separators_is_understood() -> None:
    text = acknowledgement("AA", "C1", field="#")[1:-2].decode()
    assert judged(text, "C1") == "AA"
    assert judged(text.replace("\r", "\n"), "C1") == "AA"
    with pytest.raises(NotNow):  # who could not read it does not know its name
        judged(acknowledgement("AR", "")[1:-2].decode(), "C1")
    with pytest.raises(NotNow):
        judged("MSA|AA|C1", "C1")


def test_each_receiver_is_called_by_its_name() -> None:
    told = parsed(addressed(made(), Hl7Peer("h", 1, "RIS|1", "Zürich")))
    assert (field(told, "MSH", 5), field(told, "MSH", 6), field(told, "MSH", 3)) == ("RIS|1", "Zürich", "CXRD")
    assert addressed(made(), Hl7Peer("h", 1)) == made()


def test_a_receiver_that_others_wrote_takes_it() -> None:
    with foreign_receiver() as (port, got), connect(Hl7Peer("127.0.0.1", port, timeout=10)) as delivery:
        assert delivery.send(made(PatientName="Müller^Jörg")) == "AA"
        assert delivery.send(made(PatientName="Müller^Jörg")) == "AA"
    assert [field(each, "PID", 5) for each in got] == ["Müller", "Müller"]


# ---- settings and the daemon ----------------------------------------------------------------------------------------


def test_each_kind_of_notification_goes_to_its_own_kind_of_destination() -> None:
    hook, ris = WebhookDestination(name="hook", webhook="http://h/"), Hl7Destination(name="ris", hl7="[::1]:2575")
    node = DicomDestination(name="node", host="h", port=1, ae_title="A")
    every = (hook, ris, node)
    taken = {(name, kind) for kind in KINDS for name in takers(kind, ["hook", "ris", "node"], every)}
    assert taken == {("hook", "notification"), ("ris", "oru"), ("node", KINDS[0]), ("node", KINDS[1])}
    assert ris.address == ("::1", 2575)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "hl7: 'h:1', kinds: [secondary-capture]",
            "destination ris: kinds: only for a DICOM node or a DICOMweb server",
        ),
        ("hl7: 'h:1', webhook: 'http://x/'", "either url, or webhook, or hl7"),
        ("hl7: 'h:99999'", "port must be"),
        ("hl7: 'h:0'", "port must be"),
        ("hl7: h", "config.yaml:2: destination ris: hl7: must be host:port"),
        (
            "webhook: 'https://h/', tls: true",
            "tls: only for a DICOM node or an HL7 receiver: a url or a webhook says https",
        ),
        ("url: 'https://h/', tls: true", "tls: only for a DICOM node or an HL7 receiver"),
        ("hl7: 'h:1', ca_file: a.pem", "ca_file needs tls: true"),
    ],
)
def test_a_mistake_in_the_settings_is_told(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"destinations:\n  - {{name: ris, {text}}}\n")
    with pytest.raises(InvalidSettings, match=words):
        load(path)


def run(tmp_path: Path, port: int, images: list[Any], bias: float = 60.0) -> Daemon:
    settings = Settings.model_validate(
        {
            "scp": {"port": 0},
            "storage": {"folder": tmp_path / "data", "min_free_mb": 0},
            "outbox": {"retry_first": 0.1, "retry_max": 0.2},
            "model": {"folder": tiny(tmp_path / "model", bias=bias)},
            "destinations": [{"name": "ris", "hl7": f"127.0.0.1:{port}", "hl7_application": "RIS", "timeout": 2}],
        }
    )
    daemon = Daemon(settings)
    daemon.start()
    try:
        assert send(daemon.port, images) == [0x0000] * len(images)
        wait_for(lambda: daemon.ledger.counts().get("analysed") == len(images), 60)
        wait_for(lambda: not daemon.ledger.counts().get("delivery_pending"), 60)
    finally:
        daemon.stop()
    return daemon


def test_a_daemon_tells_a_receiver_until_it_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with receiver() as there:
        there.answers = ["close", "AR", "other"]
        image = chest("told", rows=200, cols=200, AccessionNumber="A9", PatientName="Geheimnis^Gerda", PatientID="S-1")
        daemon = run(tmp_path, there.port, [image])
        assert len(there.messages) == 4
        assert len(set(there.messages)) == 1
        told = parsed(there.messages[0])
        assert (field(told, "MSH", 5), field(told, "OBR", 3), field(told, "PID", 3)) == ("RIS", "A9", "S-1")
        history = story(daemon.ledger, "1")
        assert history is not None
        assert [(each["kind"], each["state"]) for each in history["deliveries"]] == [("oru", "sent")]
        assert findings(daemon.ledger, Filter())[0]["delivered"] == 1
        assert len(list((tmp_path / "data" / "objects").glob("*/*.hl7"))) == 1
        said = "".join(capsys.readouterr()) + json.dumps(history, default=str)
        for word in ("Geheimnis", "Gerda", "S-1"):
            assert word not in said


def test_a_message_that_is_refused_does_not_hold_up_the_next(tmp_path: Path) -> None:
    with receiver() as there:
        there.answers = ["AE ERR|||101^x^HL70357|E"]
        images = [chest(f"refused-{number}", rows=200, cols=200, AccessionNumber=f"R{number}") for number in range(2)]
        daemon = run(tmp_path, there.port, images)
        counts = daemon.ledger.counts()
        assert (counts["delivery_failed"], counts["delivery_sent"]) == (1, 1)
        errors = {row["error"] for each in ("1", "2") for row in (story(daemon.ledger, each) or {})["deliveries"]}
        assert errors == {"", "the HL7 receiver answers AE, error 101"}


def test_what_is_not_flagged_is_not_told(tmp_path: Path) -> None:
    with receiver() as there:
        run(tmp_path, there.port, [chest("not-flagged", rows=200, cols=200)], bias=-60.0)
        assert there.messages == []
