"""`cxrd demo`: the worker and a receiving node on this machine, with radiographs sent between them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from worker.cli import options, output
from worker.cli.analyze import show_findings

if TYPE_CHECKING:
    from worker.demo.demo import DemoResult


def demo(
    images: Annotated[
        Path | None, typer.Option("--images", help="DICOM, JPEG or PNG files [default: drawn radiographs]")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for everything that the demo makes")] = Path(
        "demo-out"
    ),
    viewer: Annotated[
        Path | None,
        typer.Option("--viewer", help="Folder of a built OHIF viewer: show the studies in it, from an Orthanc"),
    ] = None,
    config: options.Config = None,
) -> None:
    """Start the worker and a receiving node, send radiographs, and show what comes back."""
    from worker.demo.demo import run
    from worker.demo.viewer import exhibition

    # From here on: until the viewer's address is shown, and after it `stop_event`.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    settings = options.load(config)
    output.make_folder(out)
    if viewer is None:
        with output.progress() as bar:
            shown = run(settings, images, out, bar)
        _show(shown)
    else:
        with exhibition(viewer, out / "orthanc") as (orthanc, server):
            with output.progress() as bar:
                shown = run(settings, images, out, bar, orthanc=orthanc)
            _show(shown)
            output.line(f"viewer:            {server.worklist} (Ctrl-C ends it)")
            output.flush()
            from worker.engines.child import stop_event

            stop_event().wait()
    if not shown.complete:
        output.note(f"not every image was answered in time; see {shown.database}")
        raise typer.Exit(2)


def _end(number: int, _frame: object) -> None:
    """End the demo at once, and what it started.

    Not by an exception: libraries that are being imported or are at work may swallow it. The demo's own worker needs no
    farewell; its ledger is made for that.
    """
    from worker.demo.orthanc import stop_all

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    stop_all()
    os._exit(128 + number)


def _show(shown: DemoResult) -> None:
    """Print what came of a demo."""
    show_findings(shown.rows)
    output.line("For research use. Not for diagnosis.")
    output.line(f"overlays as PNG:   {shown.pictures}")
    output.line(f"overlays as DICOM: {shown.objects}")
    output.line(f"audit database:    {shown.database}")
