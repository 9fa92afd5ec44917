"""`cxrd check NAME`: what each kind of destination is asked, and how its answers read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydicom.uid import UID, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from tests.integration.deliver.test_webhook import Listener, listener
from tests.support.dicomweb import dicomweb
from tests.support.mllp import parsed, receiver
from tests.support.peers import RESULT_CLASSES, receiving
from worker.health import check
from worker.settings import Settings

__all__ = ["listener"]  # a fixture


def seen(*, store: bool = False, quality: int | None = None, **destination: Any) -> list[tuple[bool, str]]:
    results = {"jpeg_quality": quality}
    settings = Settings.model_validate({"results": results, "destinations": [{"name": "there", **destination}]})
    return [(check.ok, check.text) for check in check.run(settings, "there", store=store)]


def node(port: int, **more: Any) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": port, "ae_title": "RECEIVER", **more}


@pytest.mark.parametrize("accepted", [True, False])
def test_a_node_says_whether_it_takes_the_compression_that_is_set(accepted: bool) -> None:
    with receiving(RESULT_CLASSES, [RLELossless] if accepted else []) as there:
        said = seen(**node(there.port, compression="rle"))
    end = "" if accepted else "; pictures go uncompressed"
    assert (accepted, f"compression rle: {'' if accepted else 'not '}accepted{end}") in said
    (picture,) = [(ok, words) for ok, words in said if words.startswith("Secondary Capture")]
    assert picture[0]
    assert ("RLE Lossless" in picture[1]) is accepted
    assert "Explicit VR Little Endian, Implicit VR Little Endian" in picture[1]
    assert (True, "retrieval: C-MOVE not offered, C-GET not offered") in said


@pytest.mark.parametrize(
    ("accepts", "compression", "ends", "stored"),
    [
        (JPEG2000Lossless, "auto", "; sent in JPEG 2000 Image Compression (Lossless Only)", True),
        (RLELossless, "jpeg-2000", "; sent in RLE Lossless", True),
        (RLELossless, "none", "; in none of these can it be sent", False),
        (JPEGBaseline8Bit, "auto", "; sent in JPEG Baseline (Process 1), with loss and under a UID of its own", True),
        (JPEGBaseline8Bit, "lossless", "; in none of these can it be sent", False),
    ],
)
def test_a_node_that_insists_on_a_syntax_says_whether_it_gets_its_pictures(
    accepts: UID, compression: str, ends: str, stored: bool
) -> None:
    with receiving(RESULT_CLASSES[:1], [accepts], plain=False) as there:
        place = node(there.port, compression=compression, kinds=("secondary-capture",))
        said = seen(**place, store=True)
    assert (stored, f"Secondary Capture Image Storage: {accepts.name}{ends}") in said
    assert [ok for ok, words in said if words.startswith("a test object")] == ([True] if stored else [])
    assert len(there.objects) == stored
    assert not any("uncompressed" in words for _, words in said)


@pytest.mark.parametrize("compression", ["auto", "lossless"])
def test_a_node_that_takes_jpeg_alone_gets_pictures_that_are_jpeg(compression: str) -> None:
    with receiving(RESULT_CLASSES[:1], [JPEGBaseline8Bit], plain=False) as there:
        said = seen(**node(there.port, compression=compression, kinds=("secondary-capture",)), quality=90)
    words = "Secondary Capture Image Storage: JPEG Baseline (Process 1); sent in JPEG Baseline (Process 1)"
    assert (True, words) in said


def test_a_node_says_which_of_our_classes_it_takes() -> None:
    with receiving(RESULT_CLASSES[:1]) as there:
        said = seen(**node(there.port))
        assert (False, "Comprehensive 3D SR Storage: not accepted") in said
        assert not any("compression" in words for _, words in said)
        assert (True, "no test object was sent; --store leaves one there and looks for it") in said
        only = seen(**node(there.port, kinds=("secondary-capture",)))
        assert all(ok for ok, _ in only), only


def test_a_receiver_of_hl7_is_connected_to_and_gets_a_test_message_where_that_is_wanted() -> None:
    with receiver() as there:
        hl7 = f"127.0.0.1:{there.port}"
        assert seen(hl7=hl7) == [(True, f"{hl7} takes connections; no message was sent")]
        assert there.messages == []
        there.answers = ["AA", "AE ERR|||202^x^HL70357|E"]
        assert seen(hl7=hl7, store=True)[1] == (
            True,
            "a test message (processing ID T, patient CXRD-CHECK) is answered with AA",
        )
        ok, words = seen(hl7=hl7, store=True)[1]
        assert (ok, words.endswith("answers AE, error 202")) == (False, True)
        told = parsed(there.messages[0])
        assert str(told["MSH"][0][11]) == "T"
        assert "CXRD-CHECK" in str(told["PID"][0])
        assert "52101004" not in str(told)  # it finds nothing
    assert seen(hl7=hl7) == [(False, "the HL7 receiver cannot be reached (ConnectionRefusedError)")]


def test_a_webhook_is_connected_to_and_called_where_that_is_wanted(listener: Listener) -> None:
    where = listener.url.split("/")[2]
    assert seen(webhook=listener.url) == [(True, f"{where} takes connections; the webhook itself was not called")]
    assert listener.got == []
    assert seen(webhook=listener.url, store=True)[1] == (True, "a notification of type cxrd.check is taken")
    assert json.loads(listener.got[0][1])["type"] == "cxrd.check"
    listener.answers = [400, 500]
    assert seen(webhook=listener.url, store=True)[1] == (False, "a notification of type cxrd.check is refused")
    assert seen(webhook=listener.url, store=True)[1] == (False, "the webhook answers with HTTP status 500")
    ok, words = seen(webhook=listener.url.replace("http:", "https:"))[0]
    assert (ok, "no TLS connection" in words) == (False, True)
    assert seen(webhook="http://127.0.0.1:1/") == [(False, "127.0.0.1:1 cannot be reached (ConnectionRefusedError)")]


def test_a_dicomweb_server_that_keeps_nothing_is_found_out() -> None:
    with dicomweb([]) as server:
        assert seen(url=server.url) == [(True, f"{server.url} answers a search (QIDO-RS)")]
        assert seen(url=server.url, store=True)[1][0] is False  # it takes no POST
        server.login = "u:p"
        assert seen(url=server.url) == [(False, "the server answers with HTTP status 401")]
