"""The certificates that are ours: until when each holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dicom_io.errors import InvalidSettings
from dicom_io.network.certificates import days_left
from worker.clock import now
from worker.destination_settings import DicomDestination

if TYPE_CHECKING:
    from pathlib import Path

    from worker.settings import Settings

WARNING = 30
"""Days before the end from which on `cxrd check` warns."""


def certificates(settings: Settings) -> Iterator[tuple[str, float | str]]:
    """Yield for each certificate of ours what shows it, and its days left; or in words why it cannot be read."""
    files: list[tuple[str, Path]] = []
    if settings.scp.tls is not None:
        files.append(("scp", settings.scp.tls.certificate))
    nodes = [each for each in settings.destinations if isinstance(each, DicomDestination)]
    files += [(f"destination {each.name}", each.tls.certificate) for each in nodes if each.tls and each.tls.certificate]
    if settings.audit.syslog.certificate is not None:
        files.append(("audit.syslog", settings.audit.syslog.certificate))
    for name, file in files:
        try:
            yield name, days_left(file, now())
        except InvalidSettings as error:
            yield name, str(error)
