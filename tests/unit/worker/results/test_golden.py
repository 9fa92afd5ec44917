"""The result objects of a drawn radiograph, byte for byte as they have been since cxrd 0.1: no change may go unnoticed.

An object that was delivered once may be made again (a second delivery, a restart) and must then be the same. Where a
change is meant, the digest here changes with it, and the CHANGELOG says so.
"""

from __future__ import annotations

import hashlib
from io import BytesIO

import pydicom
import pytest

from dicom_io.header.source_image import source_image
from tests.unit.worker.results.test_result_set import FINDING, MODEL, NORMAL, NOW, answered, source
from worker.results.result_set import not_analysed
from worker.settings import Results

GOLDEN = {
    "PNEUMONIA secondary-capture": "da40a38faa215a643be4eebd7227783e2b36d3b3ece6d6781e7d7ad538eb74a5",
    "PNEUMONIA presentation-state": "8e6b9acfec7ea918700c5f5bf4ca21dcaec40e704a7240a495f30ef6caf9cd4b",
    "PNEUMONIA structured-report": "fa1059860beff6d1999950a75f73f1f04cdba5f71be7b0cf5a56b49c3cd7b986",
    "NORMAL secondary-capture": "801fe42effe12eede29318a17a3695c1858595583b35def93b1902eb5da198c8",
    "NORMAL presentation-state": "ee41a6e8448d1a4e6aed1c42764332d201e2cc7d96043d231e6aca79a268c6c1",
    "NORMAL structured-report": "fb99c08675e0fa02dc03a65ac8c736fd6f7acc9b99c2d1f28eb85c68b3d27f57",
    "not analysed structured-report": "ef59bb4c931da4ccbdfbfb08c07f6e913a07a80f23c7083ecfcfcca8a0bba7fe",
    "all multi-frame-capture": "ae237fdea2c26153d6bcdad7e235298b9eb32a43cf67b090f93e6511816d5645",
    "all parametric-map": "eafa4b63ff082e3fc710c9b53a6b4ee15a391d634907c3e1130b4bad149d7c0d",
    "all key-objects": "2d8d5d5c66f2cab90f6f704998fa4810ba7294f478d2d2afd9d79bb2af601393",
}


def body(data: bytes) -> str:
    """Return the digest of a file's data set: its file meta information names pydicom's version."""
    start = 132 + 12 + int(pydicom.dcmread(BytesIO(data), stop_before_pixels=True).file_meta[0x00020000].value)
    return hashlib.sha256(data[start:]).hexdigest()


def made() -> dict[str, str]:
    """Return the digests of all kinds of result whose bytes depend on nothing but our own code."""
    found = {
        f"{each.decision} {result.kind}": body(result.data)
        for each in (FINDING, NORMAL)
        for result in answered(source(), each).results
    }
    (report,) = not_analysed(source_image(source()), "modality MR", MODEL, Results(), NOW).results
    found[f"not analysed {report.kind}"] = body(report.data)
    further = ("multi-frame-capture", "parametric-map", "key-objects")
    every = answered(source(), kinds=("secondary-capture", "structured-report", "presentation-state", *further))
    return found | {f"all {each.kind}": body(each.data) for each in every.results if each.kind in further}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_bytes_are_as_they_were(name: str) -> None:
    assert made()[name] == GOLDEN[name]
