"""The report that a radiograph was not analysed, on its way from the image's arrival to a node."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.peers import chest, receiving, send, wait_for
from tests.unit.worker.results.test_result_set import coded
from worker.engines.daemon import Daemon
from worker.ledger.queries import story


def test_a_peer_gets_it(daemon: Callable[..., Daemon]) -> None:
    with receiving() as receiver:
        worker = daemon([("pacs", receiver.port, "RECEIVER")], results={"report_not_analysed": True})
        assert send(worker.port, [chest(ViewPosition="LL")]) == [0x0000]
        wait_for(lambda: receiver.objects)
        (report,) = receiver.objects
    image = story(worker.ledger, "1")
    assert image is not None
    assert image["finding"]["status"] == "not_analysed"
    assert report.SOPInstanceUID == image["results"][0]["sop_instance_uid"]
    assert (report.Modality, coded(report)["Presence"]) == ("SR", "Indeterminate")
