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
    "PNEUMONIA secondary-capture": "db2c23eae1cce523dd0b9c9a9b880707f5e11ea15424e562553511f8d3ecc612",
    "PNEUMONIA presentation-state": "07639813f4db0f244fbc0c49717003e8bcd4ccb7c43eaf356f20df553b5652d2",
    "PNEUMONIA structured-report": "73bb0478c7fdbc47ac8fdf017184655b2fcf42a0d068f2d7e3ed19d71fbc663e",
    "NORMAL secondary-capture": "39c348cfaaf5fc8fa336867e0f8dbee578d6e9607509b0063d3d898054fb38da",
    "NORMAL presentation-state": "90a5bf8377d574cab9bd2521d772782a3b099cb2454709a5758b7b00afa2112c",
    "NORMAL structured-report": "09a9f3effb0059a72a1e3ae5ec4bf17fdc5c324a50b892e2a80da460e317e920",
    "not analysed structured-report": "c6fdbc3f61f11ef6f5f4e5672c3b007b8419aae8255c152689a4d9fe01495445",
    "all multi-frame-capture": "d0c39c31db233fb189fe50fd5ca04044e151e00d405720f1543a98d9cb65fd6d",
    "all parametric-map": "0390df7ffef90aac5334acee6c7371e037f4577ce76beacedcf19d69ab40f40f",
    "all key-objects": "011214947b31be26d6fcdfc45b41f4300b2feda23a1f265c19907c0be7a1c0c3",
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
