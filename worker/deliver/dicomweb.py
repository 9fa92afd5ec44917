"""Delivery to a DICOMweb server by STOW-RS, and what `cxrd check` asks of it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydicom.uid import UID

from dicom_io.dicomweb.stow import StowSession, WebPeer, reach, require, stow_session
from dicom_io.dicomweb.wado import copy_of, holds
from dicom_io.header.reading import read_header
from dicom_io.network.address import plain_url
from dicom_io.network.query_retrieve import Series
from dicom_io.network.status import DUPLICATE_INSTANCE, Verdict, verdict_of
from worker.clock import now
from worker.deliver.port import Observation, Outcome, already_there, outcome_of
from worker.deliver.trial import stored, trial_object
from worker.destination_settings import DicomwebDestination
from worker.ledger.records import DueDelivery
from worker.settings import Settings
from worker.storage.blobs import Blobs


def server_of(destination: DicomwebDestination) -> WebPeer:
    """Return the server of a destination as the network knows it.

    Raises
    ------
    InvalidSettings
        dicomweb-client is not installed.
    """
    require()
    password = destination.password.get_secret_value()
    return WebPeer(destination.url, destination.username, password, destination.timeout)


class DicomwebSession:
    """An open HTTP session with a server."""

    def __init__(self, client: StowSession, blobs: Blobs, server: WebPeer) -> None:
        self._client = client
        self._server = server
        self._blobs = blobs

    def carries(self, delivery: DueDelivery) -> bool:
        """Tell that nothing is negotiated."""
        del delivery
        return True

    def send(self, delivery: DueDelivery) -> Outcome:
        """Send one object; see `worker.deliver.port.Session`."""
        path = self._blobs.find(delivery.sha256)
        status = self._client.store(path)
        return self._look(path) if status == DUPLICATE_INSTANCE else outcome_of(status)

    def _look(self, path: Path) -> Outcome:
        """Look for what the server says is there already."""
        header = read_header(path)
        series = Series(header.StudyInstanceUID, header.SeriesInstanceUID, header.Modality)
        return already_there(lambda: holds(self._server, series, header.SOPInstanceUID), "QIDO-RS")


class DicomwebSender:
    """A DICOMweb server. Raises as `server_of` does."""

    def __init__(self, destination: DicomwebDestination, settings: Settings) -> None:
        del settings
        self._server = server_of(destination)

    @contextmanager
    def open(self, due: Sequence[DueDelivery], blobs: Blobs) -> Iterator[DicomwebSession]:
        """Open a session with the server."""
        del due
        with stow_session(self._server) as client:
            yield DicomwebSession(client, blobs, self._server)

    def check(self, *, closely: bool, store: bool) -> Iterator[Observation]:
        """Ask for a search; with `store`, leave a test object there and fetch it back."""
        del closely
        reach(self._server)
        yield Observation(True, f"{plain_url(self._server.url)} answers a search (QIDO-RS)")
        if not store:
            return
        dataset = trial_object(now().astimezone())
        with stow_session(self._server) as client:
            status = stored(client, dataset)
        ok = verdict_of(status) is Verdict.SENT
        answer = f"0x{status:04X}" if status else "success"
        yield Observation(ok, f"a test object of patient {dataset.PatientID} is answered with {answer} (STOW-RS)")
        if not ok:
            return
        series = Series(dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.Modality)
        with tempfile.TemporaryDirectory() as folder:
            there, syntax = copy_of(self._server, series, dataset.SOPInstanceUID, Path(folder))
        yield Observation(there, f"the test object is {'' if there else 'not '}found again (QIDO-RS)")
        if there:
            back = f"comes back in {UID(syntax).name}" if syntax else "does not come back"
            yield Observation(bool(syntax), f"it {back} (WADO-RS)")
