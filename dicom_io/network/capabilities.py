"""What a node offers: transfer syntaxes, storage commitment, query and retrieval."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from pydicom.dataset import Dataset
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
)

from dicom_io.errors import PeerUnavailable, RefusedByPeer
from dicom_io.network.answering_peer import TimeLimit
from dicom_io.network.status import SUCCESS
from dicom_io.network.storage_scu import PLAIN, associate
from dicom_io.objects.jpeg import LOSSY
from dicom_io.pixels.compression import LOSSLESS

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


def negotiate(peer: Peer, sop_classes: Collection[str]) -> Offer:
    """Negotiate, in one association, every class in every syntax on a context of its own (PS3.8 9.3.2.2).

    Raises
    ------
    PeerUnavailable
        When the peer cannot be reached or rejects the association.
    """
    contexts = [build_context(sop_class, syntax) for sop_class in sop_classes for syntax in SYNTAXES]
    contexts += [build_context(service) for service in _SERVICES]
    with associate(peer, contexts) as association:
        accepted = [(str(each.abstract_syntax), str(each.transfer_syntax[0])) for each in association.accepted_contexts]
    classes = {sop_class for sop_class, _ in accepted}
    return Offer(
        {each: tuple(syntax for sop_class, syntax in accepted if sop_class == each) for each in sop_classes},
        *(str(service) in classes for service in _SERVICES),
    )


_MOST_MATCHES = 1000
_ONE = 60.0
"""Seconds that the answer about one study, or one instance, may take."""


def finds(peer: Peer, dataset: Dataset) -> bool:
    """Tell whether the peer finds the study of an object, and its patient, by Study Instance UID (PS3.4 C.6.2).

    Raises
    ------
    PeerUnavailable
        When the peer cannot be reached, offers no C-FIND, or does not answer.
    """
    query = Dataset()
    query.QueryRetrieveLevel, query.StudyInstanceUID, query.PatientID = "STUDY", dataset.StudyInstanceUID, ""
    with associate(peer, [build_context(StudyRootQueryRetrieveInformationModelFind)]) as association:
        answers = _answers(association, query, "study")
    for status, _ in answers:
        _status(status, "C-FIND")
    return any(match is not None and match.get("PatientID") == dataset.PatientID for _, match in answers)


_NOT_OFFERED = (0x0122, 0x0124)
"""SOP class not supported, not authorised (PS3.7 C.5): whoever asks gets no answer to the question."""


def holds(peer: Peer, dataset: Dataset, sop_instance_uid: str) -> bool | None:
    """Tell whether the peer finds an instance in the study and series of an object (PS3.4 C.6.2, level IMAGE).

    Returns
    -------
    bool
        None where it offers no C-FIND to us.

    Raises
    ------
    PeerUnavailable
        It cannot be reached, or does not answer the question.
    """
    query = Dataset()
    query.QueryRetrieveLevel, query.SOPInstanceUID = "IMAGE", sop_instance_uid
    query.StudyInstanceUID, query.SeriesInstanceUID = dataset.StudyInstanceUID, dataset.SeriesInstanceUID
    try:
        with associate(peer, [build_context(StudyRootQueryRetrieveInformationModelFind)]) as association:
            answers = _answers(association, query, "instance")
    except RefusedByPeer:
        return None
    last = _status(answers[-1][0], "C-FIND") if answers else 0
    if last in _NOT_OFFERED:
        return None
    if last != SUCCESS:
        raise PeerUnavailable(f"the peer answers the C-FIND with 0x{last:04X}")
    return any(match is not None and match.get("SOPInstanceUID") == sop_instance_uid for _, match in answers)


def _answers(association: Any, query: Dataset, what: str) -> list[tuple[Dataset, Dataset | None]]:
    """Return the answers to a C-FIND for one study or instance. Raises PeerUnavailable where they do not end."""
    with TimeLimit(association, _ONE):  # then the last answer has no status
        matches = association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind)
        answers = list(islice(matches, _MOST_MATCHES))
    if len(answers) == _MOST_MATCHES:
        association.abort()
        raise PeerUnavailable(f"the peer answers the C-FIND for one {what} without end")
    return answers


def _status(answer: Any, service: str) -> int:
    if "Status" not in answer:
        raise PeerUnavailable(f"the peer does not answer the {service}")
    return int(answer.Status)
