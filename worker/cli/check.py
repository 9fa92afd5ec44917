"""`cxrd check` and `cxrd conformance`: is all well, and what does this installation support?"""

from __future__ import annotations

from typing import Annotated

import typer

from dicom_io.errors import InvalidSettings
from worker.cli import options, output


def check(
    name: Annotated[str | None, typer.Argument(help="Only this destination, in detail")] = None,
    store: Annotated[
        bool, typer.Option("--store", help="Leave a test object or message of patient CXRD-CHECK at NAME")
    ] = False,
    config: options.Config = None,
) -> None:
    """Check settings, model, disk, database, work that is late, processes, port and destinations: one line each.

    With NAME: what that destination accepts and in which transfer syntaxes. With --store it also gets a test object.

    Exit code 2 means that a check failed. Use it as a monitoring probe.
    """
    from worker.health.check import run

    if store and name is None:
        raise InvalidSettings("--store needs the NAME of a destination")
    failed = 0
    for check in run(options.load(config), name, store=store):
        output.line(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.text}")
        failed += not check.ok
    if failed:
        raise typer.Exit(2)


def conformance(config: options.Config = None) -> None:
    """Print the DICOM Conformance Statement (PS3.2) of this installation, as Markdown."""
    from worker.conformance.statement import installation_statement

    output.page(installation_statement(options.load(config)))
