"""Delivery of HL7 v2 messages to a receiver, and what `cxrd check` asks of it."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from dicom_io.errors import Declined, InvalidSettings, NotNow
from dicom_io.header.source_image import source_image
from dicom_io.network.address import address
from dicom_io.network.status import SUCCESS, Verdict
from dicom_io.network.tls import client_context
from worker.clock import now
from worker.deliver import hl7_message
from worker.deliver.mllp import Hl7Connection, Hl7Peer, connect
from worker.deliver.port import Observation, Outcome, refusal, retry
from worker.deliver.trial import FINDING, IDENTITY, trial_object
from worker.destination_settings import Hl7Destination
from worker.ledger.records import DueDelivery
from worker.settings import Settings
from worker.storage.blobs import Blobs


def receiver_of(destination: Hl7Destination) -> Hl7Peer:
    """Return the receiver of a destination as the network knows it.

    Raises
    ------
    InvalidSettings
        hl7apy is not installed, or `ca_file` cannot be used.
    """
    hl7_message.require()
    host, port = destination.address
    names = destination.hl7_application, destination.hl7_facility
    return Hl7Peer(host, port, *names, timeout=destination.timeout, tls=_tls(destination))


def _tls(destination: Hl7Destination) -> ssl.SSLContext | None:
    try:
        return client_context(destination.ca_file) if destination.tls else None
    except InvalidSettings as error:
        raise InvalidSettings(f"destination {destination.name}: {error}") from error


class Hl7Session:
    """A connection with a receiver."""

    def __init__(self, connection: Hl7Connection, blobs: Blobs) -> None:
        self._connection = connection
        self._blobs = blobs

    def carries(self, delivery: DueDelivery) -> bool:
        """Tell that nothing is negotiated."""
        del delivery
        return True

    def send(self, delivery: DueDelivery) -> Outcome:
        """Send one message; see `worker.deliver.port.Session`. An acknowledgement counts as status 0x0000."""
        try:
            self._connection.send(self._blobs.read(delivery.sha256, hl7_message.SUFFIX))
        except Declined as error:
            return refusal(str(error))
        except NotNow as error:
            return retry(str(error))
        return Outcome(Verdict.SENT, SUCCESS)


class Hl7Sender:
    """An HL7 receiver. Raises as `receiver_of` does."""

    def __init__(self, destination: Hl7Destination, settings: Settings) -> None:
        self._receiver = receiver_of(destination)
        self._name = settings.scp.ae_title

    @contextmanager
    def open(self, due: Sequence[DueDelivery], blobs: Blobs) -> Iterator[Hl7Session]:
        """Open what sends to the receiver; it connects at the first message."""
        del due
        with connect(self._receiver) as connection:
            yield Hl7Session(connection, blobs)

    def check(self, *, closely: bool, store: bool) -> Iterator[Observation]:
        """Connect; with `store`, send a message of processing ID T about a patient who does not exist."""
        del closely
        receiver = self._receiver
        tls = "TLS " if receiver.tls else ""
        with connect(receiver) as connection:
            connection.open()
            where = address(receiver.host, receiver.port)
            yield Observation(True, f"{where} takes {tls}connections; no message was sent")
            if store:
                yield self._try_sending(connection)

    def _try_sending(self, connection: Hl7Connection) -> Observation:
        moment = now().astimezone()
        source = trial_object(moment)
        about = f"a test message (processing ID T, patient {source.PatientID})"
        _, body = hl7_message.message(
            source_image(source), FINDING, IDENTITY, created=moment, sender=self._name, processing="T"
        )
        try:
            return Observation(True, f"{about} is answered with {connection.send(body)}")
        except Declined as error:
            return Observation(False, f"{about}: {error}")
