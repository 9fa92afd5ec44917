"""Pictures that were made as JPEG, before nodes and servers that take that syntax or refuse it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from dicom_io.dicomweb.stow import WebPeer, stow_session
from dicom_io.network.status import Verdict, verdict_of
from dicom_io.network.storage_scu import Peer, storage_association
from dicom_io.objects.common import encode
from tests.integration.dicomweb.test_stow import serving
from tests.support.peers import receiving
from tests.unit.dicom_io.objects.test_optional_kinds import CAPTURE, in_jpeg
from tests.unit.dicom_io.objects.test_secondary_capture import made_from
from tests.unit.worker.results.test_result_set import PICTURE, source


@pytest.mark.parametrize(
    ("accepted", "compression", "refusal", "arrives"),
    [
        ([JPEGBaseline8Bit], "", [], JPEGBaseline8Bit),
        ([], "", [], None),
        ([JPEGBaseline8Bit], "", [0xC000], None),  # it accepts the syntax and refuses the object
        ([RLELossless], RLELossless, [], RLELossless),
        ([JPEG2000Lossless], JPEG2000Lossless, [0xC000], None),
        ([RLELossless, JPEGBaseline8Bit], RLELossless, [], JPEGBaseline8Bit),
    ],
)
def test_a_jpeg_picture_is_never_refused_for_its_syntax(
    tmp_path: Path, accepted: list[str], compression: str, refusal: list[int], arrives: str | None
) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(encode(in_jpeg()))
    expected = pydicom.dcmread(path)
    with receiving([CAPTURE], accepted) as receiver:
        receiver.answers = list(refusal)
        peer = Peer("127.0.0.1", receiver.port, "RECEIVER", timeout=5, compression=compression, calling_ae="CXRD")
        with storage_association(peer, {(CAPTURE, ExplicitVRLittleEndian), (CAPTURE, JPEGBaseline8Bit)}) as delivery:
            assert delivery.store(path) == 0
        (got,) = receiver.objects
    syntax = got.file_meta.TransferSyntaxUID
    assert (syntax if syntax.is_compressed else None) == arrives
    assert got.SOPInstanceUID == expected.SOPInstanceUID
    assert (got.LossyImageCompression, got.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert got.PhotometricInterpretation == ("YBR_FULL_422" if arrives == JPEGBaseline8Bit else "RGB")
    apart = np.abs(got.pixel_array.astype(int) - expected.pixel_array)
    assert apart.max() <= 1  # decoders of JPEG may round a colour up or down


@pytest.mark.parametrize(("quality", "attempts"), [(90, 2), (None, 1)])
def test_a_server_that_takes_no_jpeg_is_offered_the_pixels(tmp_path: Path, quality: int | None, attempts: int) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(encode(made_from(source("DX"), rgb=PICTURE, jpeg_quality=quality)))
    with serving(415) as (url, asked), stow_session(WebPeer(url)) as delivery:
        assert verdict_of(delivery.store(path)) is Verdict.REFUSED
    sizes = [int(each["Content-Length"]) for each in asked]
    assert len(sizes) == attempts
    assert sizes == sorted(sizes)
    assert sizes[-1] > PICTURE.nbytes
