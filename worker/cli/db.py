"""`cxrd db`: the schema of the audit database, looked at and brought up to date."""

from __future__ import annotations

import typer

from worker.cli import options, output

db = typer.Typer(help="Show the database's schema, and migrate it.", no_args_is_help=True, rich_markup_mode="markdown")


@db.command()
def current(config: options.Config = None) -> None:
    """Show the revision of the database's schema, and the one that this version of cxrd needs.

    Exit code 2 means that they differ. An absent or empty database is well: `cxrd serve` makes its schema.
    """
    from worker import settings
    from worker.ledger.database import schema

    state = schema(settings.load(config))
    output.counts([("Database", state.database), ("Revision", state.revision or "none"), ("Needed", state.needed)])
    if state.revision not in (None, state.needed):
        raise typer.Exit(2)


@db.command()
def migrate(config: options.Config = None) -> None:
    """Bring the schema of the database up to date. Stop cxrd and copy the database first.

    It happens whole or not at all, also where the command is killed. Nothing else changes the schema of a database.
    """
    from worker import settings
    from worker.ledger import database

    before = database.migrate(settings.load(config))
    if before.revision == before.needed:
        output.line(f"Nothing to do: the database is at revision {before.needed}.")
    else:
        output.counts(
            [("Database", before.database), ("Before", before.revision or "none"), ("Revision", before.needed)]
        )
