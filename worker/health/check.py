"""`cxrd check`: is everything there that an unattended night needs? One line for each thing."""

from __future__ import annotations

import datetime as dt
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dicom_io.errors import AssociationRejected, CxrdError
from dicom_io.network.address import address
from dicom_io.network.storage_scu import Peer, echo
from dicom_io.network.tls import ServerTls, server_context
from modeltrain.model.card import load_card
from modeltrain.model.decision import Decider
from worker.clock import now
from worker.deliver.destinations import sender_of
from worker.destination_settings import Destination
from worker.extras import require_configured
from worker.health.certificates import WARNING, certificates
from worker.inference.engine import open_engine
from worker.inference.serving import model_folder
from worker.ledger import backlog, overview
from worker.ledger.database import open_ledger, schema
from worker.ledger.processes import ROLES, Process, processes
from worker.ledger.receipts import Ledger
from worker.settings import Scp, Settings
from worker.storage import lock
from worker.storage.privacy import open_to_others
from worker.storage.pseudonym import secret_fault
from worker.syslog import audit_collector, send


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
        yield from _privacy(settings)
        yield from _secret(settings)
        yield from _certificates(settings)
        yield from _collector(settings)
        yield from _ledger(settings)
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
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = folder / "check.part"
        probe.write_bytes(b"cxrd")
        probe.unlink()
    except OSError as error:
        return Check("disk", False, f"{folder}: {error.strerror}")
    free = shutil.disk_usage(folder).free // 1_000_000
    enough = free >= settings.storage.min_free_mb
    return Check("disk", enough, f"{folder}: {free} MB free, at least {settings.storage.min_free_mb} MB needed")


def _privacy(settings: Settings) -> Iterator[Check]:
    """Say where others than cxrd's user may read what it keeps."""
    folder = settings.storage.folder
    paths = open_to_others(folder)
    if paths:
        names = ", ".join(path.name for path in paths)
        yield Check("privacy", False, f"others may read {names} in {folder}: chmod -R go= {folder}")


def _secret(settings: Settings) -> Iterator[Check]:
    """Look at the key of patients' pseudonyms, where there is one or should be; nothing is made."""
    if settings.audit.patient_id == "hash":
        try:
            fault = secret_fault(settings.storage.folder, lambda: open_ledger(settings).holds_patient_keys())
        except CxrdError as error:
            fault = str(error)
        if fault:
            yield Check("patient key", False, fault)


def _certificates(settings: Settings) -> Iterator[Check]:
    """Say of each certificate of ours how long it holds; a fault in its last days."""
    for name, left in certificates(settings):
        if isinstance(left, str):
            yield Check("certificate", False, f"{name}: {left}")
        elif left < 0:
            yield Check("certificate", False, f"{name}: expired {-left:.0f} days ago")
        else:
            yield Check("certificate", left > WARNING, f"{name}: expires in {left:.0f} days")
    tls = settings.scp.tls
    if tls is not None:
        try:
            server_context(ServerTls(**dict(tls)))
        except CxrdError as error:
            yield Check("certificate", False, f"scp: {error}")


def _collector(settings: Settings) -> Iterator[Check]:
    """Connect with the collector of audit messages; nothing is sent."""
    url = settings.audit.syslog.url
    if url:
        try:
            send(audit_collector(settings.audit.syslog), [])
        except CxrdError as error:
            yield Check("audit messages", False, str(error))
        else:
            text = "takes TLS connections" if url.startswith("tls:") else "whether datagrams arrive there, nobody knows"
            yield Check("audit messages", True, f"{url}: {text}")


def _ledger(settings: Settings) -> Iterator[Check]:
    """Look at the database, at what it says of processes and of what is not done, and at the port of new images."""
    receivers: list[Process] = []
    try:
        ledger = open_ledger(settings)
        state = schema(settings)
        yield Check("database", True, f"{state.database}, revision {state.revision}")
        counts = ledger.counts()
        yield _images(ledger, counts)
        yield _deliveries(ledger, counts, {each.name for each in settings.destinations})
        yield from _commitments(ledger, settings)
        running = processes(ledger)
        started = bool(counts) or lock.was_held(settings.storage.folder)
        yield from _processes(running, started=started)
        receivers = [each for each in running if each.role == "receive" and each.host == socket.gethostname()]
    except CxrdError as error:
        yield Check("database", False, str(error))
    yield _port(settings, receivers)


def _processes(every: list[Process], *, started: bool) -> Iterator[Check]:
    """Say which processes run, and what holds one up; that none runs is a fault from the first start on."""
    moment = now()
    alive = [each for each in every if each.is_alive(moment)]
    if not every:
        text = "none is running; start cxrd serve" if started else "none; cxrd has not been started here yet"
        yield Check("processes", not started, text)
        return
    names = ", ".join(sorted({each.role for each in alive})) or "none"
    missing = []
    for role in ROLES:
        moments = [each.seen_at for each in every if each.role == role]
        if not any(each.role == role for each in alive):
            missing.append(
                f"{role} {f'was last seen {_age(moment - max(moments))} ago' if moments else 'is not running'}"
            )
    yield Check("processes", not missing, "; ".join([f"running: {names}", *missing]))
    for each in alive:
        for reason in _hindrances(each.detail):
            yield Check("processes", False, f"{each.role} on {each.host}: {reason}")


def _hindrances(detail: dict[str, Any]) -> Iterator[str]:
    if detail.get("pauses"):
        yield f"pauses: {detail['pauses']}"
    for name, reason in detail.get("not_served", {}).items():
        yield f"destination {name} is not served: {reason}"


def _images(ledger: Ledger, counts: dict[str, int]) -> Check:
    groups = backlog.images(ledger)
    done = [f"{counts[state]} {state.replace('_', ' ')}" for state in ("analysed", "not_analysed") if state in counts]
    texts = [*done, *(_in_words(group) for group in groups)]
    return Check("images", not any(map(_is_fault, groups)), ", ".join(texts) or "none yet")


def _deliveries(ledger: Ledger, counts: dict[str, int], configured: set[str]) -> Check:
    groups = backlog.deliveries(ledger)
    orphans = {group.destination for group in groups if not group.failed} - configured
    sent = [
        f"{counts[f'delivery_{state}']} {state}" for state in ("sent", "committed") if f"delivery_{state}" in counts
    ]
    texts = [*sent, *(f"{group.destination}: {_in_words(group)}" for group in groups)]
    if orphans:
        names = ", ".join(sorted(orphans))
        texts.append(f"results wait for a destination that is not configured: {names}")
    ok = not orphans and not any(map(_is_fault, groups))
    return Check("deliveries", ok, "; ".join(texts) or "none yet")


def _commitments(ledger: Ledger, settings: Settings) -> Iterator[Check]:
    """Say of each destination what it has not committed to, though it was asked; a fault where it has to."""
    with ledger.reading() as connection:
        groups = overview.uncommitted(connection)
    configured = {each.name for each in settings.destinations}
    if forgotten := sorted(name for name in groups.keys() - configured if groups[name].waiting):
        names = ", ".join(forgotten)
        yield Check(
            "commitment", False, f"results are to be committed to by {names}, not configured: they stay on disk"
        )
    for name in sorted(groups.keys() & configured):
        each, required = groups[name], getattr(settings.destination(name), "commitment", None) is True
        texts, silent = [], each.most_requests > 1
        if each.waiting and each.since is not None:
            often = f", asked {each.most_requests} times" if silent else ""
            texts.append(f"{each.waiting} waiting, the oldest for {_age(now() - each.since)}{often}")
        if each.given_up:
            texts.append(f"{each.given_up} stay sent: it did not commit to them")
        recent = each.latest is not None and now() - each.latest < backlog.RECENT
        yield Check("commitment", not (required and (silent or recent)), f"{name}: {'; '.join(texts)}")


def _is_fault(group: backlog.Group) -> bool:
    return group.has_failed_lately(now()) if group.failed else now() - group.oldest > backlog.LATE


def _in_words(group: backlog.Group) -> str:
    age = _age(now() - group.oldest)
    what = f"failed, the oldest {age} old" if group.failed else f"waiting, the oldest for {age}"
    return f"{group.count} {what}"


def _age(span: dt.timedelta) -> str:
    """Return a span in its largest unit that fits at least twice."""
    seconds = max(0, int(span.total_seconds()))
    units = (("days", 86400), ("hours", 3600), ("minutes", 60))
    name, size = next(((name, size) for name, size in units if seconds >= 2 * size), ("seconds", 1))
    return f"{seconds // size} {name}"


def _port(settings: Settings, receivers: list[Process]) -> Check:
    """Say what is at the port; `receivers` are those of this machine, which tell the port that they have taken."""
    scp = settings.scp
    ports = [each.detail["port"] for each in receivers if "port" in each.detail and each.is_alive(now())]
    if scp.port == 0:
        if not ports:
            return Check("port", True, "a free one is taken at each start, since scp.port is 0")
        scp = scp.model_copy(update={"port": ports[0]})
    where = address(scp.host, scp.port)
    family = socket.AF_INET6 if ":" in scp.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((scp.host, scp.port))
        except OSError as error:
            return _port_in_use(scp, f"{where}: {error.strerror}", is_ours=scp.port in ports)
    if ports:
        return Check("port", False, f"{where} is free, but the receiver listens on port {ports[0]}; restart cxrd")
    return Check("port", True, f"{where} is free")


def _port_in_use(scp: Scp, why: str, *, is_ours: bool) -> Check:
    """Say whether a running cxrd listens on the port, which is well, or something else does.

    Any DICOM node answers C-ECHO: `is_ours` is what the database says of receivers on this machine.
    """
    if scp.tls is not None and scp.tls.port == scp.port and is_ours:  # we are no client that it knows
        return Check("port", True, f"{scp.ae_title} is running on {address(scp.host, scp.port)}, with TLS alone")
    title, admitted = scp.ae_title, scp.titles
    calling = title if not admitted or title in admitted else admitted[0]  # as one of those that may
    every = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
    host = every.get(scp.host, scp.host)
    try:
        echo(Peer(host, scp.port, title, calling_ae=calling, timeout=3))
    except AssociationRejected:
        hint = "were AE titles changed since cxrd was started?"
        return Check("port", False, f"Port {scp.port} is open but rejected our C-ECHO from {calling} ({hint})")
    except CxrdError:
        return Check("port", False, f"{why}; no answer to our C-ECHO there (does another program have the port?)")
    where = address(host, scp.port)
    if not is_ours:
        what = (
            f"{where} answers C-ECHO, but no receiver of this installation runs (does another program have the port?)"
        )
        return Check("port", False, what)
    return Check("port", True, f"{title} is running on {where}")
