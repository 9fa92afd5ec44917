"""`cxrd check`: is everything there that an unattended night needs? One line for each thing."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from dicom_io.errors import AssociationRejected, CxrdError
from dicom_io.network.address import address
from dicom_io.network.storage_scu import Peer, echo
from modeltrain.model.card import load_card
from modeltrain.model.decision import Decider
from worker.deliver.destinations import sender_of
from worker.destination_settings import Destination
from worker.extras import require_configured
from worker.inference.engine import open_engine
from worker.inference.serving import model_folder
from worker.ledger.database import open_ledger
from worker.ledger.deliveries import Deliveries
from worker.settings import Settings


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, whether it is well, and in which words."""

    name: str
    ok: bool
    text: str


def run(settings: Settings, only: str | None = None, *, store: bool = False) -> Iterator[Check]:
    """Look at everything, or closely at one destination by name; with `store`, leave a test object there."""
    if only is None:
        yield _configuration(settings)
        yield _model(settings)
        yield _disk(settings)
        yield _ledger(settings)
        yield _port(settings)
    names = [each.name for each in settings.destinations]
    if only is not None and only not in names:
        yield Check(f"destination {only}", False, f"not in the configuration; there are: {', '.join(names) or 'none'}")
    for destination in settings.destinations:
        if only in (None, destination.name):
            yield from _destination(destination, settings, closely=only is not None, store=store)


def _configuration(settings: Settings) -> Check:
    try:
        require_configured(settings)
    except CxrdError as error:
        return Check("configuration", False, str(error))
    return Check("configuration", True, f"{len(settings.destinations)} destinations")


def _destination(destination: Destination, settings: Settings, *, closely: bool, store: bool) -> Iterator[Check]:
    """Ask a destination whether it answers; closely: what it takes of what we send, and what else it offers."""
    name = f"destination {destination.name}"
    try:
        sender = sender_of(destination, settings)
        for ok, text in sender.check(closely=closely, store=store):
            yield Check(name, ok, text)
    except CxrdError as error:
        yield Check(name, False, str(error))


def _model(settings: Settings) -> Check:
    try:
        card = load_card(model_folder(settings))
        decider = Decider(card, settings.model.operating_point, settings.model.threshold)
        engine = open_engine(card, settings.model)
        engine.predict(np.zeros((1, 1, card.input_size, card.input_size), np.float32))
    except CxrdError as error:
        return Check("model", False, str(error))
    return Check(
        "model", True, f"{card.label}, {decider.operating_point} threshold {decider.threshold:.4g}, {engine.name}"
    )


def _disk(settings: Settings) -> Check:
    folder = settings.storage.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / "check.part"
        probe.write_bytes(b"cxrd")
        probe.unlink()
    except OSError as error:
        return Check("disk", False, f"{folder}: {error.strerror}")
    free = shutil.disk_usage(folder).free // 1_000_000
    enough = free >= settings.storage.min_free_mb
    return Check("disk", enough, f"{folder}: {free} MB free, at least {settings.storage.min_free_mb} MB needed")


def _ledger(settings: Settings) -> Check:
    try:
        ledger = open_ledger(settings)
        waiting = Deliveries(ledger).pending_counts()
        counts = ledger.counts()
    except CxrdError as error:
        return Check("database", False, str(error))
    orphans = sorted(set(waiting) - {each.name for each in settings.destinations})
    if orphans:
        return Check("database", False, f"results wait for a destination that is not configured: {', '.join(orphans)}")
    return Check("database", True, ", ".join(f"{n} {state}" for state, n in sorted(counts.items())) or "empty")


def _port_in_use(settings: Settings, why: str) -> Check:
    """Say whether a running cxrd listens on the port, which is well, or something else does."""
    title = settings.scp.ae_title
    every = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
    host = every.get(settings.scp.host, settings.scp.host)
    try:
        echo(Peer(host, settings.scp.port, title, calling_ae=title, timeout=3))
    except AssociationRejected:
        hint = f"is {title} in scp.allowed_calling?"
        return Check("port", False, f"Port {settings.scp.port} is open but rejected our C-ECHO ({hint})")
    except CxrdError:
        return Check("port", False, f"{why}; no answer to our C-ECHO there (has another program the port?)")
    return Check("port", True, f"{title} is running on {address(host, settings.scp.port)}")


def _port(settings: Settings) -> Check:
    where = address(settings.scp.host, settings.scp.port)
    family = socket.AF_INET6 if ":" in settings.scp.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.scp.host, settings.scp.port))
        except OSError as error:
            return _port_in_use(settings, f"{where}: {error.strerror}")
    return Check("port", True, f"{where} is free")
