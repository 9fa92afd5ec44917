"""The command line: `cxrd serve`, `analyze`, `check`, `audit`, `redeliver`, `retry`, `demo`, and what joins them."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dicom_io.errors import CxrdError, InvalidSettings
from worker import __version__, logs, settings
from worker.cli.audit import audit
from worker.cli.drift import drift
from worker.cli.feedback import feedback
from worker.cli.models import models
from worker.cli.pull import pull
from worker.cli.reanalyze import reanalyze
from worker.cli.retrain import retrain
from worker.cli.train import evaluate, train

if TYPE_CHECKING:
    from worker.demo.demo import Shown

app = typer.Typer(
    name="cxrd",
    help="A DICOM node that reads chest radiographs for pneumonia and sends a heatmap back into the study.\n\n"
    "For research and screening support, not for diagnosis.",
    epilog="Start with `cxrd check`, then `cxrd serve`. Settings: config.yaml, or CXRD_SCP__PORT=11113 and the like.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(audit, name="audit")
app.command()(train)
app.command()(evaluate)
app.add_typer(models, name="models")
app.command()(drift)
app.command()(pull)
app.command()(reanalyze)
app.command()(retrain)
app.add_typer(feedback, name="feedback")

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", envvar="CXRD_CONFIG", help="Settings file [default: ./config.yaml, or the built-in one]"
    ),
]


def main() -> None:
    """Run the command line; an error that we know is one line on standard error and exit code 2."""
    try:
        app()
    except CxrdError as error:
        sys.stderr.write(f"cxrd: {' '.join(str(error).split())}\n")
        raise SystemExit(2) from error
    except BrokenPipeError:  # `cxrd audit list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"cxrd {__version__}\n")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version")
    ] = False,
) -> None:
    """Settings that every command knows."""
    del version
    logs.configure("warning", "auto")


@app.command()
def serve(config: ConfigOption = None) -> None:
    """Listen for images and answer them, until stopped (SIGTERM or Ctrl-C).

    Everything received and not finished is in the ledger and is taken up again at the next start.
    """
    from worker.engines.daemon import Daemon

    loaded = settings.load(config)
    logs.configure(loaded.logging.level, loaded.logging.format)
    daemon = Daemon(loaded)
    ending = _ending()
    daemon.start()
    ending.wait()
    daemon.stop()


def _end_demo(number: int, _frame: object) -> None:
    """End the demo at once, and what it started.

    Not by an exception: libraries that are being imported or are at work may swallow it. The demo's own worker needs no
    farewell; its ledger is made for that.
    """
    from worker.demo.orthanc import stop_all

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    stop_all()
    os._exit(128 + number)


def _ending() -> threading.Event:
    """Return an event that SIGTERM or Ctrl-C sets from now on."""
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    return ending


@app.command()
def check(
    name: Annotated[str | None, typer.Argument(help="Only this destination, and more closely")] = None,
    store: Annotated[
        bool,
        typer.Option("--store", help="Leave a test object or message (patient CXRD-CHECK) at NAME"),
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Look at configuration, model, disk, database, port and each destination (C-ECHO): one line each.

    With NAME: what that destination takes of what we send, in which transfer syntaxes, and what else it offers; with
    --store, whether it takes a test object and gives it back, or takes a test message.
    Exit code 0 when all is well, 2 when anything is not.
    """
    from worker.health.check import run

    if store and name is None:
        raise InvalidSettings("--store needs the NAME of a destination")
    bad = 0
    for line in run(settings.load(config), name, store=store):
        sys.stdout.write(f"{'ok  ' if line.ok else 'FAIL'}  {line.name}: {line.seen}\n")
        bad += not line.ok
    if bad:
        raise typer.Exit(2)


@app.command()
def conformance(config: ConfigOption = None) -> None:
    """Print the DICOM Conformance Statement of this installation (PS3.2), as Markdown, from its configuration."""
    from modeltrain.model.card import load_card
    from worker.conformance.statement import statement
    from worker.inference.serving import model_folder

    loaded = settings.load(config)
    sys.stdout.write(statement(loaded, load_card(model_folder(loaded))))


@app.command()
def analyze(
    paths: Annotated[
        list[Path], typer.Argument(metavar="FILE|FOLDER...", help="DICOM objects, JPEG or PNG; folders are searched")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where pictures and DICOM objects are written")] = Path(
        "cxrd-out"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a file on standard output")] = False,
    config: ConfigOption = None,
) -> None:
    """Read radiographs without a server: overlay pictures, result objects and a table of findings.

    Exit code 2 when any file failed; one bad file never stops the others.
    """
    from worker.engines.offline import analyze as run
    from worker.engines.offline import find
    from worker.inference.analyzer import Reader
    from worker.inference.serving import model_folder

    loaded = settings.load(config)
    files = find(paths)
    _make(out)
    reader = Reader(loaded, model_folder(loaded))
    answers = []
    with _progress() as bar:
        task = bar.add_task("reading", total=len(files))
        for answer in run(files, out, reader, loaded):
            if as_json:
                sys.stdout.write(json.dumps(answer.as_json()) + "\n")
                sys.stdout.flush()
            answers.append(answer)
            bar.advance(task)
    reader.close()
    if not as_json:
        _table([answer.as_json() for answer in answers])
        sys.stdout.write(f"For research use. Not for diagnosis. Pictures and DICOM objects are in {out}\n")
    for answer in answers:
        if answer.status == "failed":
            sys.stderr.write(f"cxrd: {answer.file}: {answer.reason}\n")
    if any(answer.status == "failed" for answer in answers):
        raise typer.Exit(2)


@app.command()
def redeliver(
    destination: Annotated[str | None, typer.Option("--to", help="Only to this destination")] = None,
    receipt: Annotated[
        list[int] | None, typer.Option("--receipt", help="Only results of this receipt; may be repeated")
    ] = None,
    sent: Annotated[bool, typer.Option("--sent", help="Also what was delivered already")] = False,
    config: ConfigOption = None,
) -> None:
    """Send results again whose delivery failed or still waits for its next attempt (with --sent, all of them).

    They are entered as due now, with all their patience before them; a running worker begins within a second.
    """
    from worker.clock import now
    from worker.ledger.database import open_ledger
    from worker.ledger.deliveries import Deliveries

    deliveries = Deliveries(open_ledger(settings.load(config)))
    count = deliveries.redeliver(now(), destination=destination, receipt_ids=receipt or (), include_sent=sent)
    sys.stdout.write(f"{count} deliveries are pending\n")


@app.command()
def retry(
    receipt: Annotated[list[int] | None, typer.Option("--receipt", help="Only this receipt; may be repeated")] = None,
    config: ConfigOption = None,
) -> None:
    """Give failed images to the workers once more, for instance after an upgrade.

    A running worker takes them up at once.
    """
    from worker.clock import now
    from worker.ledger.database import open_ledger
    from worker.ledger.queries import Filter, findings
    from worker.queue.wake import WakeSignal

    loaded = settings.load(config)
    ledger = open_ledger(loaded)
    ids = receipt or [row["receipt_id"] for row in findings(ledger, Filter(status="failed"))]
    count = ledger.requeue(ids, now())
    WakeSignal(loaded.storage.folder).send()
    sys.stdout.write(f"{count} images will be analysed again\n")


@app.command()
def demo(
    images: Annotated[
        Path | None, typer.Option("--images", help="DICOM, JPEG or PNG files [default: drawn phantoms]")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the demo keeps everything")] = Path("demo-out"),
    viewer: Annotated[
        Path | None,
        typer.Option("--viewer", help="Folder of a built OHIF viewer: then show the studies in it, beside an Orthanc"),
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Start the worker and a receiving node, send radiographs, and show what comes back."""
    from worker.demo.demo import run
    from worker.demo.viewer import exhibition

    # From here on: until the viewer's address is shown, and after it `_ending`.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end_demo)
    loaded = settings.load(config)
    _make(out)
    if viewer is None:
        with _progress() as bar:
            shown = run(loaded, images, out, bar)
        _show(shown)
        _insist(shown)
        return
    with exhibition(viewer, out / "orthanc") as (orthanc, server):
        with _progress() as bar:
            shown = run(loaded, images, out, bar, orthanc=orthanc)
        _show(shown)
        sys.stdout.write(f"viewer:            {server.worklist} (Ctrl-C ends it)\n")
        sys.stdout.flush()
        _ending().wait()
    _insist(shown)


def _show(shown: Shown) -> None:
    """Print what came of a demo."""
    _table(shown.rows)
    sys.stdout.write(
        f"For research use. Not for diagnosis.\noverlays as PNG:   {shown.pictures}\n"
        f"overlays as DICOM: {shown.objects}\naudit database:    {shown.database}\n"
    )


def _insist(shown: Shown) -> None:
    """Exit with 2 where not everything was answered."""
    if not shown.complete:
        sys.stderr.write("cxrd: not every image was answered in time; see the audit database\n")
        raise typer.Exit(2)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CxrdError(f"{folder}: {error.strerror}") from error


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _table(rows: list[dict[str, Any]]) -> None:
    table = Table("file", "status", "probability", "decision", "reason")
    for row in rows:
        score = "" if row["probability"] is None else f"{row['probability']:.3f}"
        colour = "red" if row["decision"] == "PNEUMONIA" else ""
        decision = f"[{colour}]{row['decision']}[/]" if colour else row["decision"] or ""
        table.add_row(Path(row["file"]).name, row["status"].replace("_", " "), score, decision, _remarks(row))
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def _remarks(row: dict[str, Any]) -> str:
    """Return why a file was not analysed, and which kinds of result it has not, and why."""
    left_out = (f"no {kind}: {why.removeprefix(f'{kind}: ')}" for kind, why in row.get("left_out", {}).items())
    return "; ".join(each for each in (row["reason"], *left_out) if each)


if __name__ == "__main__":
    main()
