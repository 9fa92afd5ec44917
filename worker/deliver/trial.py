"""What `cxrd check --store` leaves at a destination: a picture of a patient who does not exist."""

from __future__ import annotations

import datetime as dt
import tempfile
import uuid
from pathlib import Path
from typing import Protocol

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage

from dicom_io.finding import Finding, ModelIdentity
from dicom_io.header.source_image import source_image
from dicom_io.objects.common import Basis, encode
from dicom_io.objects.secondary_capture import secondary_capture
from dicom_io.uids import derived_uid

PATIENT = "CXRD-CHECK"
"""Its Patient ID."""
FINDING = Finding(0.0, "NORMAL", 1.0)
IDENTITY = ModelIdentity("cxrd-check", "0", "0" * 64)
_DESCRIPTION = "cxrd check: please delete"


class Store(Protocol):
    """An association or session that stores an object."""

    def store(self, path: Path) -> int:
        """Store the object in a file; return a C-STORE status."""


def trial_object(now: dt.datetime) -> Dataset:
    """Return a small picture of a patient who does not exist, named so that anyone can see it and delete it."""
    source = Dataset()
    seed = str(uuid.uuid4())
    source.PatientName, source.PatientID, source.PatientSex = "CXRD^CHECK", PATIENT, "O"
    source.SOPClassUID, source.SOPInstanceUID = SecondaryCaptureImageStorage, derived_uid(seed, "check", "instance")
    source.StudyInstanceUID = derived_uid(seed, "check", "study")
    source.StudyDate, source.StudyTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    source.StudyDescription, source.AccessionNumber, source.BurnedInAnnotation = "cxrd check", "", "NO"
    basis = Basis(source_image(source), IDENTITY, now, series_number=9700, series_description=_DESCRIPTION)
    return secondary_capture(basis, FINDING, np.full((64, 64, 3), 128, np.uint8))


def stored(target: Store, dataset: Dataset) -> int:
    """Store an object as results are stored, from a file; return the C-STORE status."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test.dcm"
        path.write_bytes(encode(dataset))
        return target.store(path)
