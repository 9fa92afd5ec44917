"""`cxrd status`: how cxrd is, in one screen."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli import options, output

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from worker.health.status import Status

EVERY = 2.0
"""Seconds between two looks."""
Watch = Annotated[bool, typer.Option("--watch", help="Show it live until Ctrl-C; with --json, one line each time")]


def status(as_json: options.Json = False, watch: Watch = False, config: options.Config = None) -> None:
    """Show who runs, what waits, what has failed, and what is wrong.

    Exit code 0: all is well. 1: something is wrong. 2: the database cannot be asked.
    """
    from worker.clock import now
    from worker.health.status import look
    from worker.ledger.database import open_existing
    from worker.settings import load

    settings = load(config)
    ledger = open_existing(settings)

    def ask() -> Status:
        return look(settings, ledger, now())

    if watch and as_json:
        _repeat(lambda: output.json_value(ask().to_dict(), None))
    elif watch:
        _show_live(ask)
    else:
        report = ask()
        if as_json:
            output.json_value(report.to_dict())
        else:
            output.drawing(screen(report))
        if report.wrong:
            raise typer.Exit(1)


def _repeat(act: Callable[[], None]) -> None:
    try:
        while True:
            act()
            time.sleep(EVERY)
    except KeyboardInterrupt:
        pass


def _show_live(ask: Callable[[], Status]) -> None:
    """Show it until Ctrl-C. A database that is away for a while ends nothing."""
    from rich.live import Live

    from dicom_io.errors import CxrdError

    def shown() -> Group | Text:
        try:
            return screen(ask())
        except CxrdError as error:
            return output.styled(str(error), "bold red")

    console = output.screen()
    with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
        _repeat(lambda: live.update(shown(), refresh=True))


# ---- the screen ------------------------------------------------------------------------------------------------------


def screen(report: Status) -> Group:
    """Return what is shown."""
    from rich.console import Group

    count = len(report.wrong)
    verdict = {0: "all is well", 1: "1 thing is wrong"}.get(count, f"{count} things are wrong")
    return Group(
        output.styled(
            f"cxrd at {report.at.astimezone():%Y-%m-%d %H:%M:%S}: {verdict}", "bold red" if count else "bold green"
        ),
        *(output.styled(f"  {each}", "red") for each in report.wrong),
        _table(("process", "host", "pid", "since", "seen", "says"), _processes(report)),
        _table(("queue", "waiting", "in hand", "oldest"), _queue(report)),
        _table(("destination", "sent today", "committed", "failed", "oldest", "state"), _destinations(report)),
        *(output.styled(f"{label + ':':15} {words}") for label, words in _facts(report)),
    )


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    drawn = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        drawn.add_column(column, overflow="fold")
    for row in rows:
        drawn.add_row(*(output.styled(cell) for cell in row))
    return drawn


def _processes(report: Status) -> Iterator[tuple[str, ...]]:
    from worker.health.status import clock, span

    for each in report.processes:
        ago = f"{span((report.at - each.seen_at).total_seconds())} ago"
        detail = each.detail
        says = [
            "" if each.is_alive(report.at) else "gone",
            f"pauses: {detail['pauses']}" if detail.get("pauses") else "",
            str(detail.get("model") or ""),
            f"port {detail['port']}" if "port" in detail else "",
        ]
        since = clock(each.started_at, report.at)
        yield each.role, each.host, str(each.pid), since, ago, ", ".join(filter(None, says))


def _queue(report: Status) -> Iterator[tuple[str, ...]]:
    from worker.health.status import span

    for each in report.queue:
        name = f"{each.kind} {each.destination}".strip()
        age = span((report.at - each.oldest).total_seconds())
        yield name, str(each.waiting), str(each.in_hand), age


def _destinations(report: Status) -> Iterator[tuple[str, ...]]:
    from worker.health.status import clock, commitment_text, down_text

    for each in report.destinations:
        state = f"not served: {each.not_served}" if each.not_served else "ok"
        state = down_text(each.down, report.at) if each.down else state
        state = "; ".join(filter(None, (state, commitment_text(each, report.at))))
        committed = each.today.get("committed", 0)
        count, oldest = (str(each.failed.count), clock(each.failed.oldest, report.at)) if each.failed else ("0", "")
        sent = str(each.today.get("sent", 0) + committed)
        yield each.name, sent, str(committed), count, oldest, state


def _facts(report: Status) -> Iterator[tuple[str, str]]:
    from worker.health.status import clock

    states = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in sorted(report.today.items()))
    yield "images today", states or "none"
    failed = report.failed_images
    yield "failed images", f"{failed.count}, the oldest of {clock(failed.oldest, report.at)}" if failed else "none"
    free = "unknown" if report.free is None else f"{report.free / 1e9:.1f} GB free"
    left = "" if report.days_left is None else f"; full in about {report.days_left:.0f} days if nothing is deleted"
    yield "disk", f"{free}, at least {report.least / 1e9:.1f} GB needed{left}"
    if report.last_answer:
        at, answer, model = report.last_answer
        yield "last answer", f"{answer}, {clock(at, report.at)}, by {model}"
    else:
        yield "last answer", "none"
