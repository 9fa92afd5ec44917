"""The head of the chain is kept outside: a file, syslog by UDP and TLS; a rewritten or shortened chain shows."""

from __future__ import annotations

import datetime as dt
import json
import socket
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from sqlalchemy import text

from dicom_io.errors import InvalidSettings, OutOfResources
from tests.acceptance.program import invoke, run
from tests.support.certificates import certificate
from tests.support.syslog import tls_collector
from tests.unit.worker.ledger.test_receipts import NEW
from worker import logs
from worker.engines.anchorer import Anchorer, append
from worker.ledger import anchor, event_chain
from worker.ledger.database import open_ledger
from worker.ledger.receipts import Ledger
from worker.settings import Settings, load

NOON = dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
KEY = b"k" * 32


@pytest.fixture(params=["sqlite", "postgres"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A settings file, for a ledger on SQLite and again on PostgreSQL."""
    file = tmp_path / "config.yaml"
    url = request.getfixturevalue("postgres_ledger_url") if request.param == "postgres" else ""
    parts = {"storage": {"folder": "data"}, "audit": {"anchor": {"file": "anchors", "every": 1}}}
    parts["ledger"] = {"url": url}
    file.write_text(yaml.safe_dump(parts))
    return file


def enter(ledger: Ledger, *names: str) -> None:
    for name in names:
        ledger.receive(replace(NEW, sop_instance_uid=name))


def rewrite(ledger: Ledger) -> None:
    """Alter an event, and compute the chain anew: as somebody does who knows how."""
    with ledger.writing() as connection:
        previous = event_chain.GENESIS
        for row in connection.execute(text("SELECT * FROM event ORDER BY id")).mappings().all():
            detail = row["detail"].replace("PACS", "MINE")
            at = dt.datetime.fromisoformat(str(row["at"])).replace(tzinfo=dt.UTC)
            own = event_chain.digest(previous, row["receipt_id"], at, row["kind"], detail, row["rows"])
            values = {"id": row["id"], "previous": previous, "digest": own, "detail": detail}
            query = "UPDATE event SET previous = :previous, digest = :digest, detail = :detail WHERE id = :id"
            connection.execute(text(query), values)
            previous = own


def verify(config: Path, *options: object) -> subprocess.CompletedProcess[str]:
    """Run the command; on PostgreSQL in a process of its own, which takes its connections along."""
    start = run if "postgresql" in config.read_text() else invoke
    return start("audit", "verify", *options, "-c", config)


def verified(config: Path, anchors: Path) -> tuple[int, list[str]]:
    done = verify(config, "--anchor", anchors)
    return done.returncode, [line for line in done.stdout.splitlines() if line.startswith(("event", "anchor"))]


def test_a_rewritten_end_and_one_that_was_cut_off_show(config: Path, tmp_path: Path) -> None:
    settings = load(config)
    ledger = open_ledger(settings)
    anchorer = Anchorer(settings, ledger, lambda: NOON)
    anchorer.look()  # there is nothing yet
    enter(ledger, "1.1", "1.2")
    anchorer.look()
    anchorer.look()  # nothing new
    enter(ledger, "1.3")
    anchorer.look()
    file = tmp_path / "anchors"
    lines = file.read_text().splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["2026-01-31T12:00:00+00:00", "2"],
        ["2026-01-31T12:00:00+00:00", "3"],
    ]
    key = tmp_path / "data" / "anchor.key"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file, key)] == [0o600] * 2
    assert verified(config, file) == (0, [])
    rewrite(ledger)
    assert verify(config).returncode == 0, "the chain alone does not show it"
    code, said = verified(config, file)
    after = "rewritten after 2026-01-31T12:00:00+00:00"
    assert (code, said) == (2, [f"event {n}: it, or one before it, was {after}" for n in (2, 3)])
    with ledger.writing() as connection:
        connection.execute(text("DELETE FROM event WHERE id = 3"))
    assert "event 3: was removed after 2026-01-31T12:00:00+00:00" in verified(config, file)[1]
    ledger.engine.dispose()


def test_a_line_that_was_altered_shows(config: Path, tmp_path: Path) -> None:
    ledger = open_ledger(load(config))
    enter(ledger, "1.1")
    key = anchor.anchor_key(tmp_path / "data" / "anchor.key", make=True)
    with ledger.reading() as connection:
        newest = anchor.head(connection)
    assert newest is not None
    good = anchor.line(NOON, *newest, key)
    lines = [
        f"<109>1 - host cxrd 1 anchor - {good}",
        "",
        good.replace(" 1 ", " 2 "),
        "x",
        anchor.line(NOON, *newest, KEY),
    ]
    altered = "was altered, or signed with another key"
    assert list(anchor.problems(ledger.reading, lines, key)) == [
        f"anchor, line 3: {altered}", "anchor, line 4: is none", f"anchor, line 5: {altered}"
    ]  # fmt: skip
    ledger.engine.dispose()


def test_a_file_without_a_line_proves_nothing_and_says_so(config: Path, tmp_path: Path) -> None:
    key = load(config).anchor_key_file
    key.parent.mkdir(parents=True, exist_ok=True)
    anchor.anchor_key(key, make=True)
    anchors = tmp_path / "anchors"
    anchors.write_text("\n", encoding="utf-8")
    code, said = verified(config, anchors)
    assert code == 2
    assert said == ["anchor: the file holds no line, and so proves nothing"]


def test_a_key_that_is_missing_or_short_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="no such file"):
        anchor.anchor_key(tmp_path / "anchor.key")
    (tmp_path / "anchor.key").write_bytes(b"short")
    with pytest.raises(InvalidSettings, match="holds 5 bytes, and a key has 32"):
        anchor.anchor_key(tmp_path / "anchor.key", make=True)


def test_syslog_by_tls_gets_the_line(tmp_path: Path) -> None:
    pair = certificate(tmp_path)
    with tls_collector(pair) as collector:
        place = {"syslog": collector.url, "ca_file": pair[0], "every": 1}
        settings = Settings.model_validate({"storage": {"folder": tmp_path}, "audit": {"anchor": place}})
        ledger = open_ledger(settings)
        enter(ledger, "1.1")
        Anchorer(settings, ledger, lambda: NOON).look()
        (message,) = collector.messages
    assert (message.priority, message.at, message.kind) == (109, "2026-01-31T12:00:00.000Z", "anchor")
    assert message.words.startswith("2026-01-31T12:00:00+00:00 1 ")
    ledger.engine.dispose()


def test_what_cannot_be_written_is_told_and_the_other_place_gets_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OutOfResources, match="No such file"):
        append(tmp_path / "none" / "anchors", "x")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(10)
        place = {"file": tmp_path / "none" / "x", "syslog": f"udp://127.0.0.1:{server.getsockname()[1]}", "every": 1}
        settings = Settings.model_validate({"storage": {"folder": tmp_path}, "audit": {"anchor": place}})
        ledger = open_ledger(settings)
        enter(ledger, "1.1")
        logs.configure("info", "json")
        anchorer = Anchorer(settings, ledger)
        anchorer.start()
        assert b" anchor - " in server.recv(2048)
        anchorer.stop()
        anchorer.join(10)
    (line,) = [json.loads(each) for each in capsys.readouterr().err.splitlines()]
    assert (line["event"], line["level"]) == ("anchor_not_written", "warning")
    ledger.engine.dispose()
