"""The installed program reads its images again with a promoted model, is killed meanwhile, and answers each once."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest

from modeltrain.model.card import load_card, shipped_model
from tests.acceptance.program import Service, invoke, run
from tests.acceptance.test_survival import distinct, source_of
from tests.support.models import variant
from tests.support.peers import chest, receiving, send, wait_for
from tests.support.printed import labelled

pytestmark = pytest.mark.slow
COUNT = 12
SR = "1.2.840.10008.5.1.4.1.1.88.34"


def states(service: Service) -> Counter[str]:
    """Ask the database itself: a command would take longer than an image does."""
    with sqlite3.connect(f"file:{service.folder / 'data' / 'ledger.sqlite'}?mode=ro", uri=True) as connection:
        rows = connection.execute("SELECT state FROM reanalysis").fetchall()
    connection.close()
    return Counter(row[0] for row in rows)


def in_hand(service: Service) -> int:
    """Return how many images are in hand to be read again."""
    with sqlite3.connect(f"file:{service.folder / 'data' / 'ledger.sqlite'}?mode=ro", uri=True) as connection:
        query = "SELECT count(*) FROM task WHERE kind = 'reanalyse' AND state = 'leased'"
        (count,) = connection.execute(query).fetchone()
    connection.close()
    return int(count)


def kill_in_hand(service: Service, done: int) -> None:
    """Kill the worker while it has an image in hand that it reads again, and so many are done."""
    wait_for(lambda: states(service)["done"] >= done and in_hand(service), 90)
    service.kill()
    assert states(service)["done"] < COUNT


def promote(service: Service, folder: Path) -> None:
    name = invoke("models", "add", folder, "-c", service.config).stdout.strip()
    done = invoke("models", "promote", name, "--force", "--reason", "a test", "-c", service.config)
    assert done.returncode == 0, done.stderr


def printed(service: Service, *options: str) -> str:
    done = invoke("reanalyze", *options, "-c", service.config)
    assert done.returncode == 0, done.stderr
    return done.stdout


def requested(service: Service, *options: str) -> str:
    """Return how many images are said to be read again."""
    return labelled(printed(service, *options))["Will be read again"]


def predecessor(report: pydicom.Dataset) -> str:
    (study,) = report.PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    (instance,) = series.ReferencedSOPSequence
    return str(instance.ReferencedSOPInstanceUID)


def test_each_image_has_one_answer_of_each_model(tmp_path: Path, serve: Callable[..., Service]) -> None:
    shipped, candidate = load_card(shipped_model()), load_card(variant(tmp_path / "candidate", bias=3.0))
    with receiving() as receiver:
        pacs = {"name": "pacs", "host": "127.0.0.1", "port": receiver.port, "ae_title": "RECEIVER"}
        service = serve(destinations=[pacs], worker={"reanalysis_pause": 0.5})
        service.start()
        send(service.port, [chest(f"again-{number}", rows=500, cols=420) for number in range(COUNT)])
        wait_for(lambda: len(receiver.objects) == 3 * COUNT, 120)
        assert requested(service, "--all") == "0"  # the model has answered all of them
        promote(service, tmp_path / "candidate")
        counts = labelled(printed(service, "--all", "--dry-run"))
        assert (counts["Model"], counts["Would be read again"]) == (candidate.label, str(COUNT))
        assert counts["Already answered by this model"] == "0"
        assert requested(service, "--model", shipped.label, "--since", "1h") == str(COUNT)

        # Killed with some done and some to do, twice; the second time nobody is there while a wish is given again.
        kill_in_hand(service, 2)
        service.start()
        kill_in_hand(service, 5)
        assert requested(service, "--all") == "0"
        service.start()
        assert send(service.port, [chest("new")]) == [0x0000]
        wait_for(lambda: states(service)["done"] == COUNT, 120)
        wait_for(lambda: len(distinct(receiver.objects)) == 3 * (2 * COUNT + 1), 60)
        time.sleep(1)  # whatever should not come would come now
        assert service.stop() == 0
        objects: dict[str, str] = {}
        for each in receiver.objects:  # sent twice, perhaps, but the same to the last byte
            assert objects.setdefault(str(each.SOPInstanceUID), each.to_json()) == each.to_json()
    sent = distinct(receiver.objects)
    assert Counter(Counter(map(source_of, sent)).values()) == {6: COUNT, 3: 1}
    reports = [each for each in sent if each.SOPClassUID == SR]
    older = {source_of(each): each for each in reports if shipped.sha256 in each.SoftwareVersions}
    newer = [each for each in reports if candidate.sha256 in each.SoftwareVersions]
    assert (len(older), len(newer)) == (COUNT, COUNT + 1)
    for each in newer:
        if source_of(each) in older:
            assert predecessor(each) == older[source_of(each)].SOPInstanceUID
        else:
            assert "PredecessorDocumentsSequence" not in each
    assert not any("PredecessorDocumentsSequence" in each for each in older.values())
    _the_audit_knows_both(service, shipped.sha256, candidate.sha256)


def _the_audit_knows_both(service: Service, old: str, new: str) -> None:
    assert Counter(row["model_sha256"] for row in service.findings()) == {new: COUNT + 1}
    history = json.loads(invoke("audit", "list", "--history", "--format", "json", "-c", service.config).stdout)
    assert Counter(row["model_sha256"] for row in history) == {old: COUNT, new: COUNT + 1}
    shown = json.loads(invoke("audit", "show", "1", "-c", service.config).stdout)
    assert [each["model_sha256"] for each in shown["answers"]] == [old, new]
    assert len(shown["results"]) == 6
    kinds = Counter(each["kind"] for each in shown["events"])
    assert (kinds["analysed"], kinds["reanalysis_requested"], kinds["reanalysed"]) == (1, 1, 1)
    verified = run("audit", "verify", "-c", service.config)
    assert verified.returncode == 0, verified.stdout
    drift = json.loads(invoke("drift", "--since", "1h", "--json", "-c", service.config).stdout)
    assert (drift["n"], drift["others"]) == (COUNT + 1, 0)
    assert re.search(rf"│ done +│ {COUNT} ", printed(service, "--status"))


def test_they_wait_for_their_model_and_can_be_taken_back(tmp_path: Path, serve: Callable[..., Service]) -> None:
    service = serve()
    service.start()
    send(service.port, [chest(name) for name in "abc"])
    wait_for(lambda: sum(row["status"] == "analysed" for row in service.findings()) == 3, 60)
    assert service.stop() == 0
    for words in ((), ("--all", "--status"), ("--all", "--since", "1d")):
        refused = invoke("reanalyze", *words, "-c", service.config)
        assert refused.returncode == 2
        assert len(refused.stderr.splitlines()) == 1
    variant(tmp_path / "candidate", bias=3.0)
    promote(service, tmp_path / "candidate")
    assert requested(service, "--receipt", "1", "--receipt", "2") == "2"
    invoke("models", "rollback", "-c", service.config)
    service.start()
    time.sleep(2.5)
    assert states(service) == {"waiting": 2}  # another model serves
    assert printed(service, "--cancel") == "Cancelled 2 waiting re-reads.\n"
    assert states(service) == {"withdrawn": 2}
    assert service.stop() == 0
    assert invoke("audit", "verify", "-c", service.config).returncode == 0
