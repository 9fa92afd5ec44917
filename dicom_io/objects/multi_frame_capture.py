"""Makes the Multi-frame True Color Secondary Capture: plain radiograph and overlay as frames to flip between."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydicom.tag import Tag

from dicom_io.objects.common import begin, plain_text
from dicom_io.objects.jpeg import compress, variant
from dicom_io.objects.kinds import MULTI_FRAME_CAPTURE
from dicom_io.objects.secondary_capture import describe_capture, describe_derivation, pass_on_loss, set_picture

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

    from dicom_io.finding import Finding
    from dicom_io.objects.common import Basis

KIND = MULTI_FRAME_CAPTURE


def multi_frame_capture(
    basis: Basis,
    finding: Finding,
    frames: NDArray[np.uint8],
    labels: Sequence[str],
    jpeg_quality: int | None = None,
) -> Dataset:
    """Wrap pictures of one size as the frames of a Multi-frame True Color Secondary Capture (PS3.3 A.8.5).

    The frames follow a Frame Label Vector and no time, so that a viewer has no cause to play them as a film.

    Parameters
    ----------
    basis, finding, jpeg_quality
        As for `dicom_io.objects.secondary_capture.secondary_capture`.
    frames
        uint8 [frames,H,W,3], two or more.
    labels
        One for each frame, at most 16 characters (VR SH).

    Raises
    ------
    UnreadableObject
        The source lacks its study, SOP instance or SOP class UID.
    ValueError
        The frames are not uint8 [frames,H,W,3] with a label each, or the time is naive.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not 1 < len(frames) == len(labels):
        raise ValueError("the frames are not uint8 [frames,H,W,3] with a label each")
    dataset = begin(basis, KIND, variant=variant(jpeg_quality))
    describe_capture(dataset, basis.identity)
    describe_derivation(dataset, basis, finding)
    pass_on_loss(dataset, basis.source)
    set_picture(dataset, basis.source, frames)
    dataset.NumberOfFrames = len(frames)
    dataset.FrameIncrementPointer = Tag("FrameLabelVector")
    dataset.FrameLabelVector = [plain_text(label)[:16] for label in labels]
    if jpeg_quality is not None:
        compress(dataset, list(frames), jpeg_quality)
    return dataset
