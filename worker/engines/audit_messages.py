"""Which DICOM audit messages (PS3.15 A.5) the audit's events make."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from urllib.parse import urlencode

from pydicom.uid import ImplicitVRLittleEndian

from dicom_io import audit_message as message
from dicom_io.audit_message import AuditMessage, Code, Instances, Origin, Outcome, Party
from dicom_io.network.address import origin as url_origin
from dicom_io.network.query_retrieve import FIND, Query, study_query
from dicom_io.network.storage_commitment import encoded
from worker.destination_settings import (
    NOTIFICATIONS,
    DicomDestination,
    DicomwebDestination,
    Hl7Destination,
    WebhookDestination,
)
from worker.ledger.audit_events import MAKE_RESULTS, AuditEvent, Image, Transfer
from worker.settings import Settings

ALTERED = Code("audit-altered", "Audit record altered", "99CXRD")
"""An alert of ours: CID 403, which may be extended, has none of this kind."""
_RECEIPTS = {"received": "C", "received_again": "R", "restored": "C"}
"""By kind of event that instances came in, the action (PS3.15 A.5.3.7)."""


class Messages:
    """Makes the messages of events.

    Parameters
    ----------
    source
        AuditSourceID: the name of the machine that tells.
    """

    def __init__(self, settings: Settings, source: str) -> None:
        self._site = settings.audit.syslog.site
        self._source = source
        self._us = Party(settings.scp.ae_title, (settings.scp.ae_title,))
        self._destinations = {each.name: each for each in settings.destinations}

    def of(self, event: AuditEvent) -> list[AuditMessage]:
        """Return the messages of an event; none where it is not one of those that others are told of."""
        origin = Origin(self._source, self._site, event.at)
        if event.image is not None:
            return list(self._about_image(origin, event, event.image))
        return list(self._about_none(origin, event))

    def _about_image(self, origin: Origin, event: AuditEvent, image: Image) -> Iterator[AuditMessage]:
        if event.kind in _RECEIPTS:
            yield self._received(origin, event, image)
        elif event.kind == "deleted":
            yield self._deleted(origin, event, image)
        elif event.kind in ("delivered", "delivery_failed"):
            for each in event.transfers:
                yield self._sent(origin, event, image, each)
        elif event.kind in (*MAKE_RESULTS, "redelivery"):
            yield from self._to_be_sent(origin, image, event.transfers)

    def _about_none(self, origin: Origin, event: AuditEvent) -> Iterator[AuditMessage]:
        facts = event.facts
        if event.kind in ("started", "stopped"):
            us = Party(self._us.name, self._us.ae_titles, str(facts["host"]))
            yield message.application_activity(origin, us, starts=event.kind == "started")
        elif event.kind == "queried":
            yield self._queried(origin, event)
        elif event.kind == "association_rejected":
            yield self._rejected(origin, event)
        elif event.kind == "refused":
            yield self._refused(origin, event)
        elif event.kind == "destination_down" and facts.get("tls") is False:
            yield self._alert(origin, self._party(str(facts["destination"])), str(facts["reason"]))

    def altered(self, origin: Origin, ledger: str, description: str) -> AuditMessage:
        """Return the alert that `cxrd audit verify` found something.

        Parameters
        ----------
        ledger
            How the database is called.
        """
        about = (message.URI, ledger)
        return message.security_alert(origin, self._us, ALTERED, about, description, Outcome.MAJOR_FAILURE)

    def _received(self, origin: Origin, event: AuditEvent, image: Image) -> AuditMessage:
        calling = str(event.facts.get("calling_ae") or image.calling_ae)
        # The receipt has the address that the first copy came from.
        where = image.peer_address if event.kind == "received" else ""
        us = Party(image.called_ae, (self._us.name,))
        action = "U" if "replaces" in event.facts else _RECEIPTS[event.kind]
        return message.instances_transferred(origin, Party(calling, (calling,), where), us, _received(image), action)

    def _deleted(self, origin: Origin, event: AuditEvent, image: Image) -> AuditMessage:
        facts = event.facts
        what = facts.get("what", "")
        words = " ".join(what) if isinstance(what, list) else str(what)
        details = [("what", words), *((name, str(facts.get(name, ""))) for name in ("files", "why"))]
        return message.instances_deleted(origin, self._us, _received(image), details)

    def _sent(self, origin: Origin, event: AuditEvent, image: Image, each: Transfer) -> AuditMessage:
        failed = event.kind == "delivery_failed"
        outcome = Outcome.SERIOUS_FAILURE if failed else Outcome.SUCCESS
        description = str(event.facts.get("error") or "")
        where = self._party(each.destination)
        if each.kind in NOTIFICATIONS:
            return message.export(origin, self._us, where, _received(image), outcome, description)
        uid = str(event.facts.get("sent_as") or each.sop_instance_uid)
        what = _of_study(image, [(each.sop_class_uid, uid)])
        return message.instances_transferred(origin, self._us, where, what, "R", outcome, description)

    def _to_be_sent(self, origin: Origin, image: Image, transfers: Sequence[Transfer]) -> Iterator[AuditMessage]:
        results = [each for each in transfers if each.kind not in NOTIFICATIONS]
        for name, group in groupby(sorted(results, key=lambda each: each.destination), lambda each: each.destination):
            what = _of_study(image, [(each.sop_class_uid, each.sop_instance_uid) for each in group])
            yield message.begin_transferring(origin, self._us, self._party(name), what)

    def _queried(self, origin: Origin, event: AuditEvent) -> AuditMessage:
        facts, where = event.facts, self._party(str(event.facts["destination"]))
        search = Query(
            facts["dates"],
            facts["patient_key"][:64],  # a value of VR LO has no more characters
            facts["accession_number"],
            facts["study_instance_uid"],
        )
        if facts["how"] == "C-FIND":
            what = encoded(study_query(search), ImplicitVRLittleEndian).getvalue()
            return message.query(origin, self._us, where, what, str(FIND), str(ImplicitVRLittleEndian))
        keys = {
            "StudyDate": search.dates,
            "PatientID": search.patient_id,
            "AccessionNumber": search.accession_number,
            "StudyInstanceUID": search.study_instance_uid,
        }
        words = urlencode({name: value for name, value in keys.items() if value})
        return message.query(origin, self._us, where, words.encode())

    def _rejected(self, origin: Origin, event: AuditEvent) -> AuditMessage:
        facts = event.facts
        calling, where = str(facts["calling_ae"]), str(facts["peer_address"])
        peer = Party(calling or where, (calling,) if calling else (), where)
        return self._alert(origin, peer, f"{facts['reason']}; times: {facts['count']}")

    def _refused(self, origin: Origin, event: AuditEvent) -> AuditMessage:
        """Return that an object was not taken. The event names neither study nor patient: they were not to be trusted.

        The object is named as in the log, by a digest of its SOP Instance UID.
        """
        facts = event.facts
        calling = str(facts.get("calling_ae", ""))
        peer = Party(calling or message.NOBODY, (calling,) if calling else ())
        details = [(name, str(facts[name])) for name in ("sop", "status", "bytes") if name in facts]
        what, reason = Instances("", "", "", []), str(facts.get("reason", ""))
        failed = Outcome.SERIOUS_FAILURE
        return message.instances_transferred(origin, peer, self._us, what, "R", failed, reason, details)

    def _alert(self, origin: Origin, peer: Party, description: str) -> AuditMessage:
        """Return the alert that a node is not who it should be, which was prevented."""
        about, kind = (message.NODE_ID, peer.address or peer.name), message.NODE_AUTHENTICATION
        return message.security_alert(origin, self._us, kind, about, description, Outcome.MINOR_FAILURE, [peer])

    def _party(self, name: str) -> Party:
        """Return a destination as it is configured now; one that is configured no longer by its name alone."""
        destination = self._destinations.get(name)
        if isinstance(destination, DicomDestination):
            return Party(destination.ae_title, (destination.ae_title,), destination.host)
        if isinstance(destination, DicomwebDestination):
            return Party(name, (), url_origin(destination.url))  # a path may hold a token
        if isinstance(destination, WebhookDestination):
            return Party(name, (), url_origin(destination.webhook))
        if isinstance(destination, Hl7Destination):
            return Party(name, (), destination.address[0])
        return Party(name)


def _received(image: Image) -> Instances:
    return _of_study(image, [(image.sop_class_uid, image.sop_instance_uid)])


def _of_study(image: Image, uids: Sequence[tuple[str, str]]) -> Instances:
    return Instances(image.study_instance_uid, image.patient_key, image.accession_number, uids)
