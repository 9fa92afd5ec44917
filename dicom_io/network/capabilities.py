"""Asks a destination what it offers: transfer syntaxes, storage commitment, query; and leaves a test object there."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from dicom_io.errors import PeerUnavailable
from dicom_io.finding import Finding, ModelIdentity
from dicom_io.network.storage_scu import PLAIN, associate
from dicom_io.objects.jpeg import LOSSY
from dicom_io.objects.secondary_capture import secondary_capture
from dicom_io.pixels.compression import LOSSLESS
from dicom_io.uids import derived_uid

if TYPE_CHECKING:
    from collections.abc import Collection

    from dicom_io.network.storage_scu import Peer

SYNTAXES = (*PLAIN, *LOSSLESS, *LOSSY)
_SERVICES = (
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelMove,
    StudyRootQueryRetrieveInformationModelGet,
)  # in the order of `Offer`
TEST_PATIENT = "CXRD-CHECK"


@dataclass(frozen=True)
class Offer:
    """What a peer takes and offers.

    Attributes
    ----------
    syntaxes
        Transfer syntaxes accepted for each SOP class asked for; none where it does not take the class.
    commitment, query, move, get
        Whether it offers Storage Commitment (push model), and Study Root C-FIND, C-MOVE and C-GET.
    """

    syntaxes: dict[str, tuple[str, ...]]
    commitment: bool
    query: bool
    move: bool
    get: bool


def ask(peer: Peer, sop_classes: Collection[str]) -> Offer:
    """Negotiate, in one association, every class in every syntax on a context of its own (PS3.8 9.3.2.2).

    Raises
    ------
    PeerUnavailable
        When the peer cannot be reached or rejects the association.
    """
    contexts = [build_context(sop_class, syntax) for sop_class in sop_classes for syntax in SYNTAXES]
    contexts += [build_context(service) for service in _SERVICES]
    with associate(peer, contexts) as association:
        taken = [(str(each.abstract_syntax), str(each.transfer_syntax[0])) for each in association.accepted_contexts]
    classes = {sop_class for sop_class, _ in taken}
    return Offer(
        {each: tuple(syntax for sop_class, syntax in taken if sop_class == each) for each in sop_classes},
        *(str(service) in classes for service in _SERVICES),
    )


def test_object(now: dt.datetime) -> Dataset:
    """Return a small picture of a patient who does not exist, named so that anyone can see it and delete it."""
    source = Dataset()
    seed = str(uuid.uuid4())
    source.PatientName, source.PatientID, source.PatientSex = "CXRD^CHECK", TEST_PATIENT, "O"
    source.SOPClassUID, source.SOPInstanceUID = SecondaryCaptureImageStorage, derived_uid(seed, "check", "instance")
    source.StudyInstanceUID = derived_uid(seed, "check", "study")
    source.StudyDate, source.StudyTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    source.StudyDescription, source.AccessionNumber, source.BurnedInAnnotation = "cxrd check", "", "NO"
    return secondary_capture(
        source,
        np.full((64, 64, 3), 128, np.uint8),
        finding=Finding(0.0, "NORMAL", 1.0),
        identity=ModelIdentity("cxrd-check", "0", "0" * 64),
        series_number=9700,
        series_description="cxrd check: please delete",
        created=now,
    )


def find(peer: Peer, dataset: Dataset) -> bool:
    """Tell whether the peer finds the study of an object by its Study Instance UID (PS3.4 C.6.2).

    Raises
    ------
    PeerUnavailable
        When the peer cannot be reached, offers no C-FIND, or does not answer.
    """
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID, query.PatientID = "STUDY", dataset.StudyInstanceUID, ""
    with associate(peer, [build_context(StudyRootQueryRetrieveInformationModelFind)]) as association:
        answers = list(association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind))
    for status, _ in answers:
        _status(status, "C-FIND")
    return any(found is not None and found.get("PatientID") == TEST_PATIENT for _, found in answers)


def _status(answer: Any, service: str) -> int:
    if "Status" not in answer:
        raise PeerUnavailable(f"the peer does not answer the {service}")
    return int(answer.Status)
