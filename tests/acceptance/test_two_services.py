"""Two services, each with its own folder, on one PostgreSQL database."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from tests.acceptance.program import Service, children, run
from tests.support.peers import chest, receiving, send, wait_for

RESULTS = 3  # objects an image


@pytest.mark.slow
def test_each_image_has_one_outcome_whoever_is_killed(tmp_path: Path, postgres_url: str) -> None:
    engine = create_engine(postgres_url)

    def ask(query: str) -> list[Any]:
        with engine.connect() as connection:
            return list(connection.execute(text(query)))

    with receiving() as receiver:
        pacs = {"name": "pacs", "host": "127.0.0.1", "port": receiver.port, "ae_title": "RECEIVER"}
        services = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            parts = {"destinations": [pacs], "ledger": {"url": postgres_url}, "worker": {"lease_seconds": 3}}
            services.append(Service(tmp_path / name, **parts))
        one, two = services
        images = {each.port: [chest(f"{each.port}-{number}") for number in range(6)] for each in services}
        uids = {str(image.SOPInstanceUID) for some in images.values() for image in some}
        try:
            for service in services:
                service.start()
            answers: list[int] = []
            senders = [
                threading.Thread(target=lambda at=port, some=some: answers.extend(send(at, some)))
                for port, some in images.items()
            ]
            for sender in senders:
                sender.start()
            wait_for(lambda: ask("SELECT 1 FROM findings WHERE status = 'analysed'"), 180)
            for service, role in ((one, "work"), (two, "deliver")):
                wait_for(lambda: children(service.pid, role), 60)  # noqa: B023 - called at once
                for pid in children(service.pid, role):
                    service.send(signal.SIGKILL, pid)
            for sender in senders:
                sender.join(120)
            assert answers == [0x0000] * 12
            done = "SELECT 1 FROM findings WHERE status = 'analysed' AND deliveries > 0 AND delivered = deliveries"
            wait_for(lambda: len(ask(done)) == 12, 240)
        finally:
            codes = [service.stop() for service in services]
        assert codes == [0, 0]
        assert [service.events("child_died")[-1]["role"] for service in services] == ["work", "deliver"]
        columns = "sop_instance_uid, status, answers, delivered, result_uids"
        rows = ask(f"SELECT {columns} FROM findings")
        assert Counter(row.sop_instance_uid for row in rows) == dict.fromkeys(uids, 1)
        assert {(row.status, row.answers, row.delivered) for row in rows} == {("analysed", 1, RESULTS)}
        objects = Counter(str(each.SOPInstanceUID) for each in receiver.objects)
        assert sorted(objects) == sorted(uid for row in rows for uid in row.result_uids.split(" "))
        # What was sent and not entered when its process was killed is sent once more, and nothing else is.
        assert sum(objects.values()) <= len(objects) + 4
        for service in services:
            verified = run("audit", "verify", "-c", service.config)
            assert verified.returncode == 0, verified.stdout
    engine.dispose()
