"""Alembic's entry: runs the migrations on the connection that `worker.ledger.migrations.upgrade` hands over."""

from alembic import context

from worker.database.columns import Table

context.configure(connection=context.config.attributes["connection"], target_metadata=Table.metadata)
with context.begin_transaction():
    context.run_migrations()
