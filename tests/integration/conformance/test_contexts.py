"""The conformance statement is held to what goes over the network: contexts, roles, keys and media types."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args
from urllib.parse import parse_qs, urlsplit

import pydicom
import pytest
from pydicom import Dataset
from pydicom.datadict import dictionary_description
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGExtended12Bit
from pynetdicom import AE, evt

from dicom_io.dicomweb.stow import WebPeer, stow_session
from dicom_io.dicomweb.wado import web_archive
from dicom_io.errors import RefusedByPeer
from dicom_io.finding import Orientation
from dicom_io.network.query_retrieve import FIND, GET, MOVE, Get, Move, Query, Receipt, Series, archive
from dicom_io.network.storage_scp import StorageNode
from dicom_io.network.storage_scu import Peer, echo, ways
from dicom_io.objects.jpeg import PICTURES
from modeltrain.model.card import load_card, shipped_model
from tests.integration.deliver.test_compression import captured
from tests.integration.dicomweb.test_stow import serving
from tests.support.dicomweb import dicomweb
from tests.support.peers import chest
from tests.unit.worker.results.test_result_set import FINDING, MODEL, answered, objects, source
from worker.clock import now
from worker.conformance.initiator import arriving
from worker.conformance.objects import CODES
from worker.conformance.statement import statement
from worker.deliver.dicom import DicomSender, node_of
from worker.destination_settings import (
    DicomDestination,
    DicomwebDestination,
    Hl7Destination,
    Kind,
    WebhookDestination,
)
from worker.engines.receiver import node_options
from worker.health import check
from worker.ledger.processes import Process
from worker.results.kinds import KINDS as TABLE
from worker.settings import Results, Scp, Settings

KINDS = get_args(Kind)
Context = tuple[str, tuple[str, ...]]


def said(**parts: Any) -> str:
    return statement(Settings.model_validate(parts), load_card(shipped_model()))


def node(name: str = "pacs", port: int = 104, **more: Any) -> DicomDestination:
    return DicomDestination(name=name, host="127.0.0.1", port=port, ae_title="PACS", **more)


def under(text: str, words: str) -> list[list[str]]:
    """Return the rows of the first table after these words, without its head."""
    lines = text.split(words, 1)[1].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def contexts(rows: list[list[str]]) -> list[Context]:
    """Return a table's presentation contexts, whose names must be those of the UIDs."""
    found = []
    for name, uid, names, uids, *_ in rows:
        syntaxes = tuple(uids.split(", "))
        assert (name, names) == (UID(uid).name, ", ".join(UID(each).name for each in syntaxes))
        found.append((uid, syntaxes))
    return found


class Listener:
    """A node that takes everything it is offered, and notes what that was."""

    def __init__(self, *sop_classes: Any) -> None:
        self.contexts: list[Context] = []
        self.roles: dict[str, tuple[bool, bool]] = {}
        self.further: set[str] = set()
        self.asked: list[Dataset] = []
        entity = AE("PACS")
        for each in ("1.2.840.10008.1.1", *sop_classes):
            entity.add_supported_context(each)
        handlers: list[Any] = [(evt.EVT_REQUESTED, self._note), (evt.EVT_C_FIND, self._find)]
        server: Any = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.server, self.port = server, int(server.server_address[1])

    def _note(self, event: Any) -> None:
        proposed = event.assoc.requestor.primitive.presentation_context_definition_list
        self.contexts = [(str(each.abstract_syntax), tuple(map(str, each.transfer_syntax))) for each in proposed]
        items = event.assoc.requestor.user_information
        self.roles = {
            str(each.sop_class_uid): (bool(each.scu_role), bool(each.scp_role))
            for each in items
            if type(each).__name__ == "SCP_SCU_RoleSelectionNegotiation"
        }
        self.further = {type(each).__name__ for each in items}

    def _find(self, event: Any) -> Iterator[Any]:
        asked = event.identifier
        self.asked.append(asked)
        match = Dataset()
        match.StudyInstanceUID, match.SeriesInstanceUID, match.SOPInstanceUID = "1.2", "1.2.3", "1.2.3.4"
        match.Modality, match.QueryRetrieveLevel = "DX", asked.QueryRetrieveLevel
        yield 0xFF00, match


@contextmanager
def listening(*sop_classes: Any) -> Iterator[Listener]:
    made = Listener(*sop_classes)
    try:
        yield made
    finally:
        made.server.shutdown()


# ---- storage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["auto", "lossless", "none", "rle", "jpeg-2000"])
@pytest.mark.parametrize("quality", [None, 90])
@pytest.mark.parametrize("kinds", [(), ("secondary-capture",), ("structured-report", "presentation-state")])
def test_a_node_is_offered_what_is_stated(
    tmp_path: Path, compression: str, quality: int | None, kinds: tuple[Kind, ...]
) -> None:
    """The outbox opens its association for one result of each kind that goes there."""
    blobs: Any = SimpleNamespace(path=lambda name: tmp_path / name)
    (tmp_path / "picture").write_bytes(captured(quality))
    with listening() as there:
        destination = node(port=there.port, kinds=kinds, compression=compression)
        settings = Settings(results=Results(kinds=KINDS, jpeg_quality=quality), destinations=(destination,))
        sent = destination.select(settings.results.kinds)
        due: Any = [SimpleNamespace(sop_class_uid=TABLE[kind].sop_class, sha256="picture") for kind in sent]
        with pytest.raises(RefusedByPeer), DicomSender(destination, settings).open(due, blobs):
            pass
        offered = there.contexts
    text = statement(settings, load_card(shipped_model()))
    rows = under(text, "Proposed to pacs")
    assert contexts(rows) == offered
    assert {(row[4], row[5]) for row in rows} == {("SCU", "none")}
    assert there.roles == {}
    assert not {each for each in there.further if "Extended" in each or "UserIdentity" in each or "Asynch" in each}
    assert ("travel in the first of these" in text) is bool({"secondary-capture"} & set(kinds or KINDS))


@pytest.mark.parametrize("compression", ["auto", "lossless", "none", "rle", "jpeg-2000"])
@pytest.mark.parametrize("quality", [None, 90])
def test_the_order_of_a_picture_s_syntaxes_is_the_one_of_the_code(compression: str, quality: int | None) -> None:
    destination = node(compression=compression)
    parts: dict[str, Any] = {"results": Results(jpeg_quality=quality), "destinations": (destination,)}
    settings = Settings(**parts)
    peer, order = node_of(destination, settings), arriving(destination, settings)
    own = JPEGBaseline8Bit if quality else ExplicitVRLittleEndian
    for number, syntax in enumerate(order):
        assert ways(PICTURES[0], own, order[number:], peer)[0] == syntax
        assert ways(PICTURES[0], own, [syntax], peer) == [syntax]
        assert f"{number + 1}. {syntax.name} ({syntax})" in said(**parts)
    assert (order[0] == JPEGBaseline8Bit) is (quality is not None)
    assert any("RLE" in each.name for each in order) is (compression != "none")
    assert any("2000" in each.name for each in order) is (compression != "none")
    with_loss = compression not in ("none", "lossless")
    assert (order[-1] == JPEGExtended12Bit) is with_loss
    assert ("(121320, DCM, Uncompressed predecessor)" in said(**parts)) is (with_loss and quality is None)


def test_each_destination_has_its_own_table_and_its_address_as_it_is_written() -> None:
    text = said(
        scp=Scp(host="::1"),
        destinations=(
            node("first", kinds=("secondary-capture",), compression="jpeg-2000"),
            DicomDestination(name="second", host="fe80::1", port=104, ae_title="B", kinds=("structured-report",)),
            Hl7Destination(name="ris", hl7="[::1]:2575", tls=True),
            WebhookDestination(name="hook", webhook="http://h/x"),
            DicomwebDestination(name="web", url="https://h/dicom-web"),
        ),
    )
    assert "| second | B | [fe80::1]:104 | CXRD | Comprehensive 3D SR Storage | auto |" in text
    assert "| ris | HL7 v2.5.1 ORU^R01 over MLLP and TLS (no DICOM) | [::1]:2575 |" in text
    assert "| address | [::1]:11112 |" in text
    assert "Proposed to first" in text
    assert len(under(text, "Proposed to second")) == 1
    for name in ("ris", "hook", "web"):
        assert f"Proposed to {name}" not in text


# ---- query and retrieval --------------------------------------------------------------------------------------------


def test_a_search_asks_for_what_is_stated(tmp_path: Path) -> None:
    text = said(destinations=(node(),))
    with listening(FIND, MOVE) as there:
        peer = Peer("127.0.0.1", there.port, "PACS", timeout=5, calling_ae="CXRD")
        with archive(peer, Move("CXRD")) as source:
            (found,) = source.series(Query("20260131", "P", "A", "1.2"), ("DX",))
            assert source.instances(found) == ["1.2.3.4"]
        assert contexts(under(text, "C-MOVE of whole series")) == there.contexts
        assert there.roles == {}
        rows = under(text, "searches by Study Instance UID")
        for level, asked in zip(("STUDY", "SERIES", "IMAGE"), there.asked, strict=True):
            stated = {(row[1], row[3].startswith("matching")) for row in rows if row[0] == level}
            assert stated == {
                (dictionary_description(each.tag), bool(each.value) and each.keyword != "QueryRetrieveLevel")
                for each in asked
            }


def test_a_c_get_is_stated_with_its_roles(tmp_path: Path) -> None:
    settings = Settings(destinations=(node(),))
    rows = under(said(destinations=(node(),)), "By `cxrd pull NAME --get`")
    with listening(FIND, GET) as there:
        peer = Peer("127.0.0.1", there.port, "PACS", timeout=5, calling_ae="CXRD")
        by = Get(Receipt(lambda _: 0, tmp_path, "CXRD"), settings.rules.sop_classes)
        with suppress(RefusedByPeer), archive(peer, by):
            pass
    together: dict[str, list[str]] = {}
    for sop_class, syntaxes in there.contexts:
        together.setdefault(sop_class, []).extend(syntaxes)
    assert contexts(rows) == [(sop_class, tuple(syntaxes)) for sop_class, syntaxes in together.items()]
    assert {row[1] for row in rows if row[4:6] == ["SCP", "SCP/SCU role selection"]} == set(there.roles)
    assert {row[1] for row in rows if row[4] == "SCU"} == {str(FIND), str(GET)}
    assert set(there.roles.values()) == {(False, True)}


# ---- DICOMweb -------------------------------------------------------------------------------------------------------


def test_media_types_and_parameters_are_those_of_the_requests(tmp_path: Path) -> None:
    text = said(destinations=(DicomwebDestination(name="web", url="https://h/dicom-web"),))
    image = chest("web")
    with dicomweb([image]) as server:
        uid = str(image.SOPInstanceUID)
        server.faults[uid] = "plain-only"
        with web_archive(WebPeer(server.url), Receipt(lambda _: 0, tmp_path, "CXRD"), "web") as source:
            within = Series(image.StudyInstanceUID, image.SeriesInstanceUID, "DX")
            list(source.series(Query("20260131", "P", "A", "1.2"), ("DX",)))
            source.instances(within)
            source.fetch(within, [uid])
        assert len(set(server.accept_headers)) == 3
        for each in server.accept_headers:
            assert each in text
        keys = {key for path in server.requests for key in parse_qs(urlsplit(path).query)}
        assert {"StudyDate", "PatientID", "includefield", "limit"} <= keys
        assert all(key in text for key in keys)
    (tmp_path / "a.dcm").write_bytes(captured())
    with serving(200) as (url, asked), suppress(Exception), stow_session(WebPeer(url)) as delivery:
        delivery.store(tmp_path / "a.dcm")
    sent = asked[0]["Content-Type"].split("; boundary")[0]
    assert f"sent: {sent};" in text


@pytest.mark.parametrize("web", [True, False])
def test_what_is_not_configured_is_not_stated(web: bool) -> None:
    text = said(destinations=(DicomwebDestination(name="web", url="https://h/") if web else node(),))
    assert ("QIDO-RS" in text) is web
    assert ("C-FIND" in text) is not web
    assert ("Storage commitment" in text) is not web
    numbers = [int(each) for each in re.findall(r"^#### 3\.4\.(\d)", text, re.MULTILINE)]
    assert numbers == sorted(numbers)


# ---- security -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("destination", "expected"),
    [
        ({"url": "https://h/dicom-web", "username": "u"}, "d: HTTPS: TLS 1.2 or later, with verification of"),
        ({"url": "https://h/dicom-web", "username": "u"}, "HTTP basic authentication."),
        ({"url": "http://h/dicom-web"}, "d: HTTP without TLS."),
        ({"webhook": "https://h/x", "secret": "s"}, "the system's authorities; signed with HMAC-SHA-256."),
        ({"webhook": "http://h/x"}, "d: HTTP without TLS."),
        ({"hl7": "h:1"}, "d (MLLP): no TLS."),
        ({"hl7": "h:1", "tls": True}, "d (MLLP): TLS 1.2 or later"),
        ({"hl7": "h:1", "tls": True, "ca_file": "a.pem"}, "its `ca_file` alone"),
    ],
)
def test_it_says_of_each_way_whether_it_is_encrypted(destination: dict[str, Any], expected: str) -> None:
    text = said(destinations=[{"name": "d", **destination}])
    assert expected in text
    assert "- Associations accepted: no TLS." in text


# ---- the node -------------------------------------------------------------------------------------------------------


def test_the_node_accepts_what_is_stated_and_listens_on_ipv6(tmp_path: Path) -> None:
    text = said(destinations=(node(),))
    started = StorageNode(node_options(Scp(host="::1", port=0)), tmp_path, lambda _: 0)
    started.start()
    try:
        peer = Peer("::1", started.port, "CXRD", timeout=5, calling_ae="CXRD")
        echo(peer)
        busy = Settings(scp=Scp(host="::1", port=started.port))
        ours = Process("receive", "here", 1, now(), now(), {"port": started.port})
        assert check._port(busy, [ours]).text == f"CXRD is running on [::1]:{started.port}"
        accepted = {
            str(each.abstract_syntax): tuple(map(str, each.transfer_syntax or ()))
            for each in started._entity.supported_contexts
        }
    finally:
        started.stop()
    free = check._port(Settings(scp=Scp(host="::1", port=peer.port)), [])
    assert (free.ok, free.text) == (True, f"[::1]:{peer.port} is free")
    rows = under(text, "in every other standard syntax too:")
    stated = contexts(under(text, "Presentation contexts accepted:"))
    assert dict(stated) == {uid: accepted[uid] for uid, _ in stated}
    listed = {row[1] for row in under(text, "### 7.4")} | {uid for uid, _ in stated}
    assert listed == set(accepted)
    others = set(accepted.values()) - {syntaxes for _, syntaxes in stated}
    assert others == {(*stated[-1][1], *(row[1] for row in rows))}


# ---- the objects ----------------------------------------------------------------------------------------------------


def spoken(dataset: Dataset) -> set[tuple[str, str, str]]:
    """Return all codes of an object."""
    found: set[tuple[str, str, str]] = set()

    def look(_: Dataset, element: Any) -> None:
        for item in element.value if element.VR == "SQ" else ():
            if "CodeValue" in item:
                found.add((item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning))

    dataset.walk(look)
    return found


def test_the_stated_codes_are_those_of_the_objects() -> None:
    finding = replace(FINDING, orientation=Orientation.FACING)  # without it no side is coded
    made = objects(answered(source("DX"), finding, kinds=KINDS))
    text = said(results=Results(kinds=KINDS))
    answers = {"2667000", "82334004", "281392002"}  # what this finding is not, and where it is not
    for kind, codes in CODES.items():
        stated = {(each.value, each.scheme_designator, each.meaning) for each in codes}
        assert {each for each in stated if each[0] not in answers} <= spoken(made[kind])
        for value, scheme, meaning in stated:
            assert f"| {value} | {scheme} | {meaning} |" in text
    report = made["structured-report"]
    for words in ("(%, UCUM, Percent)", "(82334004, SCT, Indeterminate)", "(112040, DCM, Tracking Unique Identifier)"):
        assert words in text
    assert "SCOORD POLYLINE" in text
    assert {each.value for each in report.iterall() if each.keyword == "GraphicType"} == {"POLYLINE"}
    assert MODEL.name in {str(each.value) for each in report.iterall() if each.keyword == "TextValue"}
    assert pydicom.uid.UID(report.SOPClassUID).name in text
