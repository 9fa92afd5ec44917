"""`cxrd pull` from a DICOMweb server: everything comes once, and what is broken is told and comes the next time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from dicom_io.dicomweb import wado
from dicom_io.dicomweb.stow import WebPeer
from dicom_io.dicomweb.wado import WebArchive, web_archive
from dicom_io.errors import InvalidSettings, OutOfResources, PeerUnavailable
from dicom_io.network import status
from dicom_io.network.query_retrieve import Query, Receipt, Series
from dicom_io.objects.common import encode
from tests.integration.dicomweb.test_stow import serving_bytes
from tests.support.dicomweb import WebServer, dicomweb
from tests.support.peers import chest
from tests.support.printed import labelled
from worker.cli.app import app
from worker.ledger.database import open_ledger
from worker.ledger.queries import Filter, findings
from worker.ledger.receipts import Ledger
from worker.receive import backfill
from worker.settings import Settings

DATES = ("20260101", "20260102", "20260103", "20260104")


@pytest.fixture
def server() -> Iterator[WebServer]:
    made = [chest(f"wado-{date}", StudyDate=date, AccessionNumber=f"A{date[-1]}", PatientID="P 1") for date in DATES]
    with dicomweb(made) as running:
        yield running


class Site:
    """A storage folder, and pulls into it from a server."""

    def __init__(self, folder: Path, server: WebServer) -> None:
        self.settings = Settings.model_validate({"storage": {"folder": folder, "min_free_mb": 0}})
        self.ledger: Ledger = open_ledger(self.settings)
        self.peer = WebPeer(server.url, timeout=5)

    def pull(self, wanted: Query | None = None) -> list[backfill.Step]:
        with backfill.direct_receipt(self.settings, self.ledger) as receipt:

            def opened() -> contextlib.AbstractContextManager[WebArchive]:
                return web_archive(self.peer, receipt, "archive-with-a-long-name")

            series = backfill.find_series(opened, [wanted or Query("20260101-")], ("CR", "DX")).series
            return list(backfill.fetch_series(opened, series, self.ledger, most_waiting=100))

    def came(self) -> set[str]:
        return {row["accession_number"] for row in findings(self.ledger, Filter())}


@pytest.fixture
def site(tmp_path: Path, server: WebServer) -> Site:
    return Site(tmp_path / "data", server)


def uids(server: WebServer) -> list[str]:
    return list(server.objects)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Query("20260102-20260103"), {"A2", "A3"}),
        (Query("20260104-"), {"A4"}),
        (Query("20260101"), {"A1"}),
        (Query(accession_number="A3"), {"A3"}),
        (Query(patient_id="P 1"), {"A1", "A2", "A3", "A4"}),
        (Query(patient_id="P"), set()),
    ],
)
def test_what_was_selected_comes_byte_for_byte(
    wanted: Query, expected: set[str], site: Site, server: WebServer
) -> None:
    steps = site.pull(wanted)
    assert sum(step.received for step in steps) == len(expected)
    assert site.came() == expected
    rows = findings(site.ledger, Filter())
    stored = {path.read_bytes() for path in (site.settings.storage.folder / "objects").glob("*/*.dcm")}
    assert stored == {encode(each) for each, _ in server.objects.values() if each.AccessionNumber in expected}
    assert {row["calling_ae"] for row in rows} <= {"archive-with-a-lo"[:16]}
    assert not list((site.settings.storage.folder / "objects" / "incoming").rglob("*.part"))


@pytest.mark.parametrize(
    ("patient", "asked"),
    [("P 1", "P%201"), ("P*", "P*"), ("P?1", "P?1"), ("a+b&c=d%", "a%2Bb%26c%3Dd%25"), ("Ä", "%C3%84")],
)
def test_a_search_is_written_as_a_uri_has_it(patient: str, asked: str, site: Site, server: WebServer) -> None:
    """Not as a form has it: there a plus sign is a space, and not every server decodes wild cards."""
    site.pull(Query(patient_id=patient))
    assert f"?PatientID={asked}&includefield=" in server.requests[0]


def test_what_is_known_is_not_fetched_again(site: Site, server: WebServer) -> None:
    site.pull(Query("20260101"))
    server.requests.clear()
    steps = site.pull()
    assert [(step.received, step.present) for step in steps] == [(0, 1), (1, 0), (1, 0), (1, 0)]
    assert server.retrieved() == uids(server)[1:]
    assert sum(step.received for step in site.pull()) == 0


@pytest.mark.parametrize("page", [1, 3])
@pytest.mark.parametrize("knows_offset", [True, False])
def test_matches_come_page_by_page(page: int, knows_offset: bool, site: Site, server: WebServer) -> None:
    server.page, server.knows_offset = page, knows_offset
    assert len(site.pull()) == (
        4 if knows_offset else page
    )  # it ends, also where a server gives the same page for ever


def test_matches_without_end_are_given_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wado, "MOST_MATCHES", 1000)
    asked: list[int] = []

    def page(offset: int, **_: object) -> list[dict[str, object]]:
        asked.append(offset)
        return [{"0020000D": {"vr": "UI", "Value": [f"1.2.{offset + number}"]}} for number in range(500)]

    def none(_study: str, **_: object) -> list[dict[str, object]]:
        return []

    client = SimpleNamespace(search_for_studies=page, search_for_series=none)
    archive = wado.WebArchive(client, None, site.peer, None, "")  # type: ignore[arg-type]
    with pytest.raises(PeerUnavailable, match="more than 1000 matches"):
        list(archive.series(Query(), ("DX",)))
    assert asked == [0, 500, 1000]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (404, "HTTP status 404"),
        (500, "HTTP status 500"),
        ("cut", "broke off"),
        ("open", "ends before its part does"),
        ("garbage", "not a DICOM file"),
        ("empty", "not a"),
    ],
)
def test_a_fault_is_told_leaves_nothing_and_passes(
    fault: object, words: str, site: Site, server: WebServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.faults[uids(server)[1]] = fault
    steps = site.pull()
    assert [(step.received, step.failed) for step in steps] == [(1, 0), (0, 1), (1, 0), (1, 0)]
    assert words in steps[1].error
    assert site.came() == {"A1", "A3", "A4"}
    assert not list((site.settings.storage.folder / "objects" / "incoming").rglob("*.part"))
    server.faults.clear()
    assert [(step.received, step.present) for step in site.pull()] == [(0, 1), (1, 0), (0, 1), (0, 1)]
    said = "".join(capsys.readouterr())
    assert not any(uid in said for uid in uids(server))


def test_another_object_in_its_place_is_refused(site: Site, server: WebServer) -> None:
    server.faults[uids(server)[0]] = encode(chest("of-somebody-else", AccessionNumber="X"))
    assert "not the object that was asked for" in site.pull(Query("20260101"))[0].error
    assert site.came() == set()


@pytest.mark.parametrize("fault", ["bare", "plain-only"])
def test_servers_of_other_habits_are_understood(fault: str, site: Site, server: WebServer) -> None:
    server.faults = dict.fromkeys(uids(server), fault)
    assert sum(step.received for step in site.pull()) == 4


def test_wrong_credentials_are_one_error(site: Site, server: WebServer) -> None:
    server.login = "cxrd:secret"
    with pytest.raises(PeerUnavailable, match="HTTP status 401"):
        site.pull()
    site.peer = WebPeer(server.url, "cxrd", "wrong", timeout=5)
    with pytest.raises(PeerUnavailable, match="HTTP status 401"):
        site.pull()
    site.peer = WebPeer(server.url, "cxrd", "secret", timeout=5)
    assert sum(step.received for step in site.pull()) == 4


def test_a_server_that_goes_is_given_up_and_taken_up_again(site: Site, server: WebServer) -> None:
    """Not after a timeout for each of many thousand series."""
    with backfill.direct_receipt(site.settings, site.ledger) as receipt:
        gone = WebPeer("http://127.0.0.1:1/dicom-web", timeout=2)
        series = [Series("1.2", f"1.2.{number}", "DX") for number in range(50)]
        steps: list[backfill.Step] = []
        with pytest.raises(PeerUnavailable, match=r"cannot be reached .* 3 series in a row"):
            steps.extend(
                backfill.fetch_series(lambda: web_archive(gone, receipt, "x"), series, site.ledger, most_waiting=9)
            )
    site.peer = gone
    with pytest.raises(PeerUnavailable, match="cannot be reached"):
        site.pull()


@pytest.mark.parametrize("body", [b"<html>", b'{"a": 1}', b'[1, "x"]', b'[{"0020000D": 5}]', b"[" * 100_000])
def test_an_answer_that_is_no_dicom_json_is_one_error(body: bytes, site: Site, server: WebServer) -> None:
    with serving_bytes(body) as url:
        site.peer = WebPeer(url, timeout=5)
        with pytest.raises(PeerUnavailable, match="not answer as a DICOMweb server"):
            site.pull()


def test_a_full_disk_ends_it(site: Site, server: WebServer) -> None:
    receipt = Receipt(lambda _arrival: status.OUT_OF_RESOURCES, site.settings.storage.folder, "CXRD")
    with web_archive(site.peer, receipt, "web") as source:
        series = next(source.series(Query("20260101"), ("DX", "CR")))
        with pytest.raises(OutOfResources, match="disk full"):
            source.fetch(series, source.instances(series))
    assert len(server.retrieved()) == 1


def test_two_pulls_at_once_are_one_too_many(site: Site) -> None:
    with backfill.direct_receipt(site.settings, site.ledger), pytest.raises(InvalidSettings, match="another cxrd pull"):
        site.pull()


def test_the_command_pulls_by_csv_and_says_what_came(
    tmp_path: Path, site: Site, server: WebServer, capsys: pytest.CaptureFixture[str]
) -> None:
    config, table = tmp_path / "config.yaml", tmp_path / "table.csv"
    table.write_text("accession_number\nA2\nA4\n")
    server.login, server.faults[uids(server)[3]] = "u:geheim", 404
    config.write_text(
        f"storage: {{folder: {tmp_path / 'data'}, min_free_mb: 0}}\n"
        f"destinations: [{{name: web, url: '{server.url}', username: u, password: geheim}}]\n"
    )
    command = ["pull", "web", "--csv", str(table), "--config", str(config)]
    with pytest.raises(SystemExit) as left:
        app(command)
    assert left.value.code == 2
    said = capsys.readouterr()
    assert list(labelled(said.out).values()) == ["2", "1", "0", "1"]
    assert "series 2 of 2: the server answers with HTTP status 404" in said.err
    with pytest.raises(InvalidSettings, match="--get is for DICOM nodes"):
        app([*command, "--get"], standalone_mode=False)
    server.faults.clear()
    app(command, standalone_mode=False)
    assert list(labelled(capsys.readouterr().out).values()) == ["2", "1", "1", "0"]
