"""Makes the Multi-frame True Color Secondary Capture: plain radiograph and overlay as frames to flip between."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydicom.tag import Tag
from pydicom.uid import MultiFrameTrueColorSecondaryCaptureImageStorage

from dicom_io.objects.common import begin, plain_text
from dicom_io.objects.jpeg import compress, kind_of
from dicom_io.objects.secondary_capture import describe_capture, describe_derivation, pass_on_loss, set_picture

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

    from dicom_io.finding import Finding, ModelIdentity

KIND = "multi-frame-capture"


def multi_frame_capture(
    source: Dataset,
    frames: NDArray[np.uint8],
    labels: Sequence[str],
    *,
    finding: Finding,
    identity: ModelIdentity,
    series_number: int,
    series_description: str,
    created: datetime,
    jpeg_quality: int | None = None,
) -> Dataset:
    """Wrap pictures of one size as the frames of a Multi-frame True Color Secondary Capture (PS3.3 A.8.5).

    The frames follow a Frame Label Vector and no time, so that a viewer has no cause to play them as a film.

    Parameters
    ----------
    source
        The radiograph as received; its pixel data is not needed. It is not changed.
    frames
        uint8 [frames,H,W,3], two or more.
    labels
        One for each frame, at most 16 characters (VR SH).
    finding, identity, series_number, series_description, created, jpeg_quality
        As for `dicom_io.objects.secondary_capture.secondary_capture`.

    Raises
    ------
    UnreadableObject
        The source lacks its study, SOP instance or SOP class UID.
    ValueError
        The frames are not uint8 [frames,H,W,3] with a label each, or the time is naive.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not 1 < len(frames) == len(labels):
        raise ValueError("the frames are not uint8 [frames,H,W,3] with a label each")
    dataset = begin(
        source,
        identity,
        kind=kind_of(KIND, jpeg_quality),
        sop_class=MultiFrameTrueColorSecondaryCaptureImageStorage,
        modality="OT",
        series_number=series_number,
        series_description=series_description,
        created=created,
    )
    describe_capture(dataset, identity)
    describe_derivation(dataset, source, finding, identity)
    pass_on_loss(dataset, source)
    set_picture(dataset, source, frames)
    dataset.NumberOfFrames = len(frames)
    dataset.FrameIncrementPointer = Tag("FrameLabelVector")
    dataset.FrameLabelVector = [plain_text(label)[:16] for label in labels]
    if jpeg_quality is not None:
        compress(dataset, list(frames), jpeg_quality)
    return dataset
