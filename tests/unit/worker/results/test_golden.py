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
    "PNEUMONIA secondary-capture": "2a64702412b084c97ee14b62c3a157702f5c08137d303ac01050a7ce3e9c2af9",
    "PNEUMONIA presentation-state": "c94dec1adf9d4c24d99bbb37e9284e514e2189c3d5df793b4c3c598f84fa2318",
    "PNEUMONIA structured-report": "56c81ff02c5e72499abd028acf98b907cbe04d7c55a4ddc5ed74e94a550bfccc",
    "NORMAL secondary-capture": "7af96c5bd2a5efa65628a7de164254c126d582927a0c79410efc76a15029901c",
    "NORMAL presentation-state": "57be713e08668962282de71766cbf2711420f0af279ba47a307b079d44b8ab4d",
    "NORMAL structured-report": "d5bbf3ae7fd76258129b9f4f7216fa9235f687100b447183d7af04ec636476a2",
    "not analysed structured-report": "c6fdbc3f61f11ef6f5f4e5672c3b007b8419aae8255c152689a4d9fe01495445",
    "all multi-frame-capture": "4f6015958bbba03edcad9c998f113d7d7c2e10c9b4ee8473fb471a0218a7bafc",
    "all parametric-map": "b1bb14037b6dae9eedc5ebc1118fbae2ba3d3256cd9c86bd8257e717c9f85e0a",
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
