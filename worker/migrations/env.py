"""Alembic's entry: runs the migrations on the connection that `worker.migrations.upgrade` hands over."""

from alembic import context

from worker.tables import Table

context.configure(connection=context.config.attributes["connection"], target_metadata=Table.metadata)
with context.begin_transaction():
    context.run_migrations()
