"""The installed program, killed between its request for storage commitment and the node's report."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pynetdicom import evt

from dicom_io.network.commitment_messages import PUSH_MODEL, Report, request_of
from dicom_io.network.commitment_scp import send_report
from dicom_io.network.storage_scu import Peer
from tests.acceptance.program import Service, invoke
from tests.support.peers import chest, receiving, send, wait_for


def test_a_report_counts_after_a_kill(serve: Callable[..., Service]) -> None:
    requests: list[Any] = []

    def take(event: Any) -> tuple[int, None]:
        requests.append(request_of(event.action_information, 100))
        return 0x0000, None

    with receiving() as receiver:
        receiver.takes([PUSH_MODEL], "1.2.840.10008.1.2.1")
        receiver._server.bind(evt.EVT_N_ACTION, take)
        pacs = {"name": "pacs", "host": "127.0.0.1", "port": receiver.port, "ae_title": "RECEIVER"}
        service = serve(destinations=[pacs], outbox={"commit_after": 1.0})
        service.start()
        send(service.port, [chest("commitment", rows=300, cols=260)])
        wait_for(lambda: sum(len(each.references) for each in requests) == 3)
        wait_for(lambda: len(service.events("commitment_asked")) == len(requests))
        service.kill()
        service.start()
        us = Peer("127.0.0.1", service.port, "CXRD", "RECEIVER", timeout=10)
        for each in requests:
            send_report(us, Report(each.transaction_uid, each.references))
        listing = invoke("audit", "show", 1, "-c", service.config)
        assert {each["state"] for each in json.loads(listing.stdout)["deliveries"]} == {"committed"}
        assert service.stop() == 0
