"""Pictures in every syntax that a node may insist on: what is sent, and what other programs make of it."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from dicom_io.errors import Declined, RefusedByPeer
from dicom_io.network.storage_scu import Peer, StorageAssociation, proposed, storage_association, ways
from dicom_io.objects.common import encode
from dicom_io.objects.jpeg import LOSSY, QUALITY, extend, jpeg, lose
from dicom_io.objects.multi_frame_capture import multi_frame_capture
from dicom_io.pixels.compression import LOSSLESS, compress
from tests.support.peers import chest, receiving
from tests.support.tools import tool
from tests.unit.dicom_io.objects.test_secondary_capture import made_from
from tests.unit.worker.results.test_result_set import FINDING, PICTURE, basis, source
from worker.deliver.dicom import node_of
from worker.destination_settings import DicomDestination
from worker.results.kinds import KINDS
from worker.settings import Settings

CAPTURE = KINDS["secondary-capture"].sop_class
REPORT = KINDS["structured-report"].sop_class
EVERYTHING = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, *LOSSY, *LOSSLESS)
IMPLICIT_ONLY = (ImplicitVRLittleEndian,)


def node(compression: str, port: int = 104) -> Peer:
    place = DicomDestination(name="pacs", host="127.0.0.1", port=port, ae_title="RECEIVER", compression=compression)
    return node_of(place, Settings())


def captured(quality: int | None = None) -> bytes:
    return encode(made_from(source("DX"), rgb=PICTURE, jpeg_quality=quality))


def framed() -> bytes:
    """Return two frames that differ."""
    frames = np.stack([PICTURE, PICTURE[::-1]])
    return encode(multi_frame_capture(basis(source("DX")), FINDING, frames, ("a", "b")))


# ---- what a node insists on ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["auto", "lossless", "none", "rle", "jpeg-2000"])
@pytest.mark.parametrize("quality", [None, 90])
def test_the_default_syntax_is_enough(tmp_path: Path, compression: str, quality: int | None) -> None:
    assert arrives(tmp_path, IMPLICIT_ONLY, compression, quality) == ImplicitVRLittleEndian


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda uid: uid.name)
@pytest.mark.parametrize(
    ("compression", "quality"),
    [("auto", None), ("auto", 90), ("lossless", None), ("rle", None), ("jpeg-2000", None)],
)
def test_a_node_that_takes_one_compressed_syntax_alone_gets_it(
    tmp_path: Path, syntax: UID, compression: str, quality: int | None
) -> None:
    assert arrives(tmp_path, (syntax,), compression, quality) == syntax


@pytest.mark.parametrize(
    ("compression", "quality", "expected"),
    [
        ("auto", None, ExplicitVRLittleEndian),
        ("none", None, ExplicitVRLittleEndian),
        ("rle", None, RLELossless),
        ("jpeg-2000", None, JPEG2000Lossless),
        ("auto", 90, JPEGBaseline8Bit),
        ("rle", 90, JPEGBaseline8Bit),
    ],
)
def test_a_node_that_takes_everything_gets_what_is_set(
    tmp_path: Path, compression: str, quality: int | None, expected: UID
) -> None:
    assert arrives(tmp_path, EVERYTHING, compression, quality) == expected


@pytest.mark.parametrize(
    ("accepted", "compression"),
    [((JPEG2000Lossless,), "none"), ((RLELossless,), "none"), (LOSSY, "none"), (LOSSY, "lossless")],
)
def test_what_cannot_be_sent_without_loss_is_refused_with_a_word(
    tmp_path: Path, accepted: tuple[UID, ...], compression: str
) -> None:
    with pytest.raises(RefusedByPeer, match="the peer does not accept Secondary Capture Image Storage"):
        arrives(tmp_path, accepted, compression, None)


def arrives(folder: Path, accepted: tuple[UID, ...], compression: str, quality: int | None) -> UID:
    """Send a picture to a node that takes these syntaxes and no others; return the one in which it arrives."""
    path = folder / "a.dcm"
    path.write_bytes(captured(quality))
    expected = pydicom.dcmread(path)
    kinds = {(CAPTURE, ExplicitVRLittleEndian), (CAPTURE, expected.file_meta.TransferSyntaxUID)}
    with receiving([CAPTURE], accepted, plain=False) as receiver:
        with storage_association(node(compression, receiver.port), kinds) as delivery:
            assert delivery.store(path) == 0
        (got,) = receiver.objects
    assert got.SOPInstanceUID == expected.SOPInstanceUID
    assert got.LossyImageCompression == expected.LossyImageCompression
    apart = np.abs(got.pixel_array.astype(int) - expected.pixel_array)
    assert apart.max() <= (1 if quality else 0)  # decoders of JPEG may round a colour up or down
    return UID(got.file_meta.TransferSyntaxUID)


def test_where_one_syntax_fails_the_next_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(captured())
    with receiving([CAPTURE], LOSSLESS, plain=False) as receiver:
        receiver.answers = [0xC000, 0xA900]
        with storage_association(node("auto", receiver.port), {(CAPTURE, ExplicitVRLittleEndian)}) as delivery:
            assert delivery.store(path) == 0
            (got,) = receiver.objects
            assert got.file_meta.TransferSyntaxUID == JPEGLSLossless  # after both of JPEG 2000
            assert delivery.sent_as == ""
            receiver.answers = [0xA700]  # which is no matter of the syntax
            assert delivery.store(path) == 0xA700
            monkeypatch.setattr("dicom_io.network.storage_scu.compress", lambda *_: 1 / 0)
            with pytest.raises(Declined, match="in no transfer syntax that it can be sent in"):
                delivery.store(path)
    assert isinstance(delivery, StorageAssociation)


def test_only_pictures_are_offered_compressed_and_each_on_a_context_of_its_own() -> None:
    kinds = {(CAPTURE, str(ExplicitVRLittleEndian)), (REPORT, str(ExplicitVRLittleEndian))}
    both = len(LOSSLESS) + len(LOSSY)
    for compression, further in (("none", 0), ("lossless", len(LOSSLESS)), ("auto", both), ("rle", both)):
        contexts = proposed(node(compression), kinds)
        assert len([each for each in contexts if each.abstract_syntax == CAPTURE]) == 1 + further
        assert len([each for each in contexts if each.abstract_syntax == REPORT]) == 1
        assert all(len(each.transfer_syntax or ()) == 1 for each in contexts[2:])


@pytest.mark.parametrize("accepted", [(JPEGBaseline8Bit,), (JPEGExtended12Bit,), LOSSY], ids=str)
@pytest.mark.parametrize("compression", ["auto", "rle"])
@pytest.mark.parametrize("which", ["single", "frames"])
def test_a_node_that_takes_lossy_pictures_alone_gets_one_of_its_own_name(
    tmp_path: Path, accepted: tuple[UID, ...], compression: str, which: str
) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(captured() if which == "single" else framed())
    before = pydicom.dcmread(path)
    with receiving([before.SOPClassUID], accepted, plain=False) as receiver:
        with storage_association(
            node(compression, receiver.port), {(before.SOPClassUID, ExplicitVRLittleEndian)}
        ) as delivery:
            assert [delivery.store(path) for _ in range(2)] == [0, 0]
        got, again = receiver.objects
    assert got.file_meta.TransferSyntaxUID == accepted[0]
    assert got.SOPInstanceUID == again.SOPInstanceUID == delivery.sent_as != before.SOPInstanceUID
    assert (got.SeriesInstanceUID, got.StudyInstanceUID) == (before.SeriesInstanceUID, before.StudyInstanceUID)
    assert (got.LossyImageCompression, got.LossyImageCompressionMethod) == ("01", "ISO_10918_1")
    assert got.LossyImageCompressionRatio > 1
    assert (got.PhotometricInterpretation, got.BurnedInAnnotation) == ("YBR_FULL_422", before.BurnedInAnnotation)
    named = {
        each.ReferencedSOPInstanceUID: each.PurposeOfReferenceCodeSequence[0].CodeValue
        for each in got.SourceImageSequence
    }
    (original,) = before.SourceImageSequence
    assert named == {original.ReferencedSOPInstanceUID: "121322", before.SOPInstanceUID: "121320"}
    assert [each.CodeValue for each in got.DerivationCodeSequence] == ["113085", "113042", "113040"]
    assert pydicom.dcmread(path) == before  # what is kept stays as it is


def test_a_lossy_copy_goes_where_no_whole_picture_can_be_made_but_not_where_one_was_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.dcm"
    path.write_bytes(captured())
    with receiving([CAPTURE], (JPEGLSLossless, JPEGBaseline8Bit), plain=False) as receiver:
        with storage_association(node("auto", receiver.port), {(CAPTURE, ExplicitVRLittleEndian)}) as delivery:
            receiver.answers = [0xC000]
            assert delivery.store(path) == 0xC000
            assert receiver.objects == []
            monkeypatch.setattr("dicom_io.network.storage_scu.compress", lambda *_: 1 / 0)
            assert delivery.store(path) == 0
        (got,) = receiver.objects
    assert got.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    assert got.SOPInstanceUID == delivery.sent_as != pydicom.dcmread(path).SOPInstanceUID


def test_a_jpeg_picture_keeps_its_name_as_jpeg_extended(tmp_path: Path) -> None:
    assert arrives(tmp_path, (JPEGExtended12Bit,), "auto", 90) == JPEGExtended12Bit


def test_what_is_no_picture_is_never_converted() -> None:
    peer = node("rle")
    assert ways(REPORT, ExplicitVRLittleEndian, [*LOSSLESS, *LOSSY], peer) == []
    assert ways(REPORT, ExplicitVRLittleEndian, [ImplicitVRLittleEndian], peer) == [ImplicitVRLittleEndian]
    assert ways(CAPTURE, RLELossless, [ExplicitVRLittleEndian], peer) == []  # not ours: it was never uncompressed


# ---- what other programs make of them --------------------------------------------------------------------------------

# DCMTK decodes RLE and, in dcmj2pnm, JPEG; it has nothing for JPEG 2000, which GDCM's own OpenJPEG decodes.
_GDCM = """
import sys, gdcm
reader = gdcm.ImageReader()
reader.SetFileName(sys.argv[1])
assert reader.Read()
image = reader.GetImage()
sys.stdout.buffer.write(image.GetBuffer().encode("utf-8", "surrogateescape"))
"""


@pytest.fixture(scope="module", params=["single", "frames"])
def original(request: pytest.FixtureRequest) -> bytes:
    return captured() if request.param == "single" else framed()


def compressed(data: bytes, syntax: UID, path: Path) -> Dataset:
    dataset = pydicom.dcmread(BytesIO(data))
    compress(dataset, syntax)
    dataset.save_as(path)
    return dataset


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda uid: uid.name)
def test_they_come_back_as_they_were_and_dciodvfy_finds_no_error(original: bytes, tmp_path: Path, syntax: UID) -> None:
    path, plain = tmp_path / "a.dcm", pydicom.dcmread(BytesIO(original))
    compressed(original, syntax, path)
    read = pydicom.dcmread(path)
    assert read.file_meta.TransferSyntaxUID == syntax
    assert (read.SOPInstanceUID, read.LossyImageCompression) == (plain.SOPInstanceUID, plain.LossyImageCompression)
    assert read.PhotometricInterpretation == ("YBR_RCT" if "2000" in syntax.name else "RGB")
    assert np.array_equal(read.pixel_array, plain.pixel_array)
    said = subprocess.run([tool("dciodvfy"), str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert "Error" not in said.stderr + said.stdout


@pytest.mark.parametrize(
    ("syntax", "programs"),
    [
        (RLELossless, ("dcm2pnm",)),
        (RLELossless, ("dcmdrle", "dcm2pnm")),
        (JPEGLosslessSV1, ("dcmj2pnm",)),
        (JPEGLosslessSV1, ("dcmdjpeg", "dcm2pnm")),
        (JPEGLossless, ("dcmj2pnm",)),
        (JPEGLSLossless, ("dcmdjpls", "dcm2pnm")),
    ],
    ids=lambda each: each.name if isinstance(each, UID) else " ".join(each),
)
def test_dcmtk_shows_every_pixel(original: bytes, tmp_path: Path, syntax: UID, programs: tuple[str, ...]) -> None:
    path, plain = tmp_path / "a.dcm", pydicom.dcmread(BytesIO(original))
    compressed(original, syntax, path)
    *decoders, viewer = programs
    for program in decoders:
        subprocess.run([tool(program), str(path), str(tmp_path / "plain.dcm")], check=True, timeout=60)
        path = tmp_path / "plain.dcm"
        assert not pydicom.dcmread(path).file_meta.TransferSyntaxUID.is_compressed
    frames = plain.pixel_array.reshape(-1, plain.Rows, plain.Columns, 3)
    for number, frame in enumerate(frames, start=1):
        shown = tmp_path / f"{number}.ppm"
        subprocess.run([tool(viewer), "+op", "+F", str(number), str(path), str(shown)], check=True, timeout=60)
        assert shown.read_bytes().endswith(frame.tobytes())  # a binary PPM: a header, then RGB by pixel


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda uid: uid.name)
def test_gdcm_reads_every_pixel(original: bytes, tmp_path: Path, syntax: UID) -> None:
    path, plain = tmp_path / "a.dcm", pydicom.dcmread(BytesIO(original))
    compressed(original, syntax, path)
    command = [sys.executable, "-c", _GDCM, str(path)]
    assert subprocess.run(command, check=True, capture_output=True, timeout=60).stdout == plain.pixel_array.tobytes()


@pytest.mark.parametrize("syntax", LOSSY, ids=lambda uid: uid.name)
def test_others_show_a_lossy_copy_almost_as_it_was(original: bytes, tmp_path: Path, syntax: UID) -> None:
    path, plain = tmp_path / "a.dcm", pydicom.dcmread(BytesIO(original))
    smooth = np.linspace(0, 255, plain.pixel_array.size).astype(np.uint8)  # noise is nothing that JPEG is made for
    plain.PixelData = smooth.tobytes()
    copy = pydicom.dcmread(BytesIO(encode(plain)))
    lose(copy)
    if syntax == JPEGExtended12Bit:
        extend(copy)
    copy.save_as(path)
    said = subprocess.run([tool("dciodvfy"), str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert "Error" not in said.stderr + said.stdout
    frames = smooth.reshape(-1, plain.Rows, plain.Columns, 3)
    read = pydicom.dcmread(path)
    assert read.file_meta.MediaStorageSOPInstanceUID == read.SOPInstanceUID
    assert np.abs(read.pixel_array.reshape(frames.shape).astype(int) - frames).mean() < 3
    for number, frame in enumerate(frames, start=1):
        shown = tmp_path / f"{number}.ppm"
        subprocess.run([tool("dcmj2pnm"), "+op", "+F", str(number), str(path), str(shown)], check=True, timeout=60)
        pixels = np.frombuffer(shown.read_bytes()[-frame.size :], np.uint8).reshape(frame.shape)
        assert np.abs(pixels.astype(int) - frame).mean() < 3


def test_only_jpeg_baseline_is_extended() -> None:
    picture = pydicom.dcmread(BytesIO(captured(90)))
    extend(picture)
    for stream in (picture.PixelData, encapsulate([b"\xff\xd8\xff\xd9"])):
        picture.PixelData = stream
        with pytest.raises(ValueError, match="no JPEG Baseline"):
            extend(picture)


def test_a_lossy_copy_adds_its_loss_to_the_source_s() -> None:
    earlier: dict[str, Any] = {"LossyImageCompressionRatio": 10, "LossyImageCompressionMethod": "ISO_15444_1"}
    lossy = pydicom.dcmread(
        BytesIO(encode(made_from(source("DX", LossyImageCompression="01", **earlier), rgb=PICTURE)))
    )
    lose(lossy)
    assert lossy.LossyImageCompressionMethod == ["ISO_15444_1", "ISO_10918_1"]
    assert QUALITY == 90


def test_a_lossy_copy_that_does_not_show_the_picture_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = pydicom.dcmread(BytesIO(captured()))
    monkeypatch.setattr("dicom_io.objects.jpeg.jpeg", lambda frame, quality: jpeg(np.full_like(frame, 255), quality))
    with pytest.raises(ValueError, match="not like the one it was made from"):
        lose(picture)


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEGLSLossless], ids=lambda uid: uid.name)
def test_gdcm_compresses_our_own_pictures_alone(syntax: UID) -> None:
    grey = chest("grey")
    with pytest.raises(ValueError, match="only RGB"):
        compress(grey, syntax)
    short = pydicom.dcmread(BytesIO(captured()))
    short.PixelData = short.PixelData[:-10]
    with pytest.raises(ValueError, match="too short"):
        compress(short, syntax)
    assert JPEG2000 in LOSSLESS
