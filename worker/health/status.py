"""How cxrd is, for a person: who runs, what waits, what has failed, and what of it is wrong."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from worker.ledger import backlog, overview
from worker.ledger.backlog import Group
from worker.ledger.overview import TaskGroup, Uncommitted
from worker.ledger.processes import ROLES, Process, processes
from worker.queue.breaker import Breaker, Breakers
from worker.queue.task import Kind
from worker.storage.files import free_bytes

if TYPE_CHECKING:
    from worker.ledger.receipts import Ledger
    from worker.settings import Settings


_LATELY = dt.timedelta(days=7)
"""The time by which it is judged how fast the disk fills up."""


@dataclass(frozen=True)
class DestinationStatus:
    """One destination: the results of today's images by state, all that have failed, and why nothing is sent.

    `uncommitted` is what it has not committed to keeping, `not_committing` why it is not asked to.
    """

    name: str
    today: dict[str, int]
    failed: Group | None
    down: Breaker | None
    not_served: str
    uncommitted: Uncommitted | None = None
    not_committing: str = ""


@dataclass(frozen=True)
class Status:
    """How cxrd is at a moment.

    Attributes
    ----------
    today
        The images received since midnight, by state.
    free, least
        Bytes that are free in the storage folder, and that must be; `free` is None where it cannot be told.
    days_left
        Until no image is taken in any more, if as much comes as in the last week and nothing is deleted; None where
        nothing came.
    wrong
        What is wrong, a line for each thing; nothing where all is well.
    """

    at: dt.datetime
    processes: list[Process]
    queue: list[TaskGroup]
    today: dict[str, int]
    failed_images: Group | None
    destinations: list[DestinationStatus]
    free: int | None
    least: int
    days_left: float | None
    last_answer: tuple[dt.datetime, str, str] | None
    wrong: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; times in ISO 8601."""
        values: dict[str, Any] = _plain(asdict(self))
        for shown, process in zip(values["processes"], self.processes, strict=True):
            shown["alive"] = process.is_alive(self.at)
        return values


def look(settings: Settings, ledger: Ledger, now: dt.datetime) -> Status:
    """Ask the database how everything is.

    Raises
    ------
    OutOfResources
        It cannot be asked.
    """
    midnight = now.astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    outbox = settings.outbox
    breakers = {each.name: each for each in Breakers(ledger, first=outbox.retry_first, most=outbox.retry_max).open()}
    with ledger.reading() as connection:
        queue = overview.task_groups(connection, now)
        today = overview.images_since(connection, midnight)
        sent_today = overview.deliveries_since(connection, midnight)
        last_answer = overview.last_answer(connection)
        uncommitted = overview.uncommitted(connection)
        lately = overview.bytes_since(connection, now - _LATELY)
    failed_images = next((group for group in backlog.images(ledger) if group.failed), None)
    failed = {group.destination: group for group in backlog.deliveries(ledger) if group.failed}
    running = processes(ledger)
    configured = {each.name for each in settings.destinations}
    waited_for = {each.destination for each in queue if each.kind in (Kind.DELIVER, Kind.COMMIT)}
    names = sorted(configured | waited_for)
    not_served, not_committing = _reasons(running, now, "not_served"), _reasons(running, now, "not_committing")
    destinations = [
        DestinationStatus(
            each,
            sent_today.get(each, {}),
            failed.get(each),
            breakers.get(each),
            not_served.get(each, ""),
            uncommitted.get(each),
            not_committing.get(each, ""),
        )
        for each in names
    ]
    committing = {each.name for each in settings.destinations if getattr(each, "commitment", None) is True}
    free, least = free_bytes(settings.storage.folder), settings.storage.min_free_mb * 1_000_000
    wrong = [
        *_wrong_processes(running, now),
        *_wrong_queue(queue, set(breakers) | set(not_served), now),
        *_wrong_destinations(destinations, configured, now),
        *_wrong_commitments([each for each in destinations if each.name in committing], now),
        *_wrong_images(failed_images, now),
        *_wrong_disk(free, least),
    ]
    days = None if free is None or not lately else max(0, free - least) / lately * (_LATELY / dt.timedelta(days=1))
    return Status(now, running, queue, today, failed_images, destinations, free, least, days, last_answer, wrong)


def clock(moment: dt.datetime, now: dt.datetime) -> str:
    """Return a time as a person says it: of today without the date, in the zone of this machine."""
    here = moment.astimezone()
    return f"{here:%H:%M}" if here.date() == now.astimezone().date() else f"{here:%Y-%m-%d %H:%M}"


def span(seconds: float) -> str:
    """Return a span of time as a person says it."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def down_text(breaker: Breaker, now: dt.datetime) -> str:
    """Return since when and why a destination is down, and when it is asked again."""
    seconds = (breaker.next_probe_at - now).total_seconds()
    probe = f"next probe in {span(seconds)}" if seconds > 0 else "a probe is due"
    return f"down since {clock(breaker.since, now)}: {breaker.reason}; {probe}"


def commitment_text(destination: DestinationStatus, now: dt.datetime) -> str:
    """Return why a destination has not committed to what was sent there; empty where that is only a matter of time."""
    if destination.not_committing:
        return "it offers no storage commitment"
    each = destination.uncommitted
    if each is None:
        return ""
    if each.given_up and each.latest is not None and now - each.latest < backlog.RECENT:
        return f"{each.given_up} results stay sent and not committed"
    if each.most_requests > 1 and each.since is not None:
        often = f"asked {each.most_requests} times"
        return f"no storage commitment for {each.waiting} results, the first sent {clock(each.since, now)}; {often}"
    return ""


# ---- what is wrong ---------------------------------------------------------------------------------------------------


def _wrong_processes(processes: list[Process], now: dt.datetime) -> Iterator[str]:
    living = [each for each in processes if each.is_alive(now)]
    running = {each.role for each in living}
    for role in ROLES:
        if role not in running:
            last = max((each.seen_at for each in processes if each.role == role), default=None)
            yield f"{role} does not run" + (f"; it was last seen at {clock(last, now)}" if last else "")
    places = {(each.role, each.host) for each in living}
    for each in processes:
        if each.role in running and (each.role, each.host) not in places:
            yield f"{each.role} on {each.host} (pid {each.pid}) was last seen at {clock(each.seen_at, now)}"
    for each in living:
        if each.detail.get("pauses"):
            yield f"{each.role} on {each.host} pauses: {each.detail['pauses']}"
        elif each.detail.get("model", "") is None:
            yield f"{each.role} on {each.host} has no model"


def _wrong_queue(queue: list[TaskGroup], excused: set[str], now: dt.datetime) -> Iterator[str]:
    """Yield what waits though it is due; what waits for a destination that is down is said with the destination."""
    for each in queue:
        late = each.late and each.next_due is not None and now - each.next_due > backlog.LATE
        if not late or each.next_due is None:
            continue
        if each.kind == Kind.ANALYSE:
            yield f"{each.late} images are due, the first since {clock(each.next_due, now)}"
        elif each.kind == Kind.DELIVER and each.destination not in excused:
            yield f"{each.late} results for {each.destination} are due, the first since {clock(each.next_due, now)}"


def _wrong_destinations(destinations: list[DestinationStatus], configured: set[str], now: dt.datetime) -> Iterator[str]:
    for each in destinations:
        if each.down:
            yield f"destination {each.name} is down: {each.down.reason}"
        if each.not_served:
            yield f"destination {each.name} is not served: {each.not_served}"
        if each.name not in configured:
            yield f"results wait for {each.name}, which is not in the configuration"
        if each.failed and each.failed.has_failed_lately(now):
            yield f"destination {each.name}: {each.failed.count} deliveries have failed (cxrd redeliver)"


def _wrong_commitments(destinations: list[DestinationStatus], now: dt.datetime) -> Iterator[str]:
    """Yield what is not committed at the destinations that have to (`commitment: true`)."""
    for each in destinations:
        words = commitment_text(each, now)
        if words:
            yield f"destination {each.name}: {words}"


def _wrong_images(failed: Group | None, now: dt.datetime) -> Iterator[str]:
    if failed and failed.has_failed_lately(now):
        yield f"{failed.count} images could not be analysed (cxrd retry)"


def _wrong_disk(free: int | None, least: int) -> Iterator[str]:
    if free is None:
        yield "the storage folder cannot be looked at"
    elif free < least:
        yield f"disk: {free // 1_000_000} MB free, at least {least // 1_000_000} MB needed"


def _reasons(processes: list[Process], now: dt.datetime, what: str) -> dict[str, str]:
    """Return, by destination, what the processes that deliver say in their details: why it is not served, or so."""
    reasons: dict[str, str] = {}
    for each in processes:
        faults = each.detail.get(what)
        if each.is_alive(now) and isinstance(faults, dict):
            reasons |= {str(name): str(why) for name, why in faults.items()}
    return reasons


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.isoformat() if isinstance(value, dt.datetime) else value
