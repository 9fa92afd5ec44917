"""Events carry digests of the rows about their image; no two events follow the same one.

What there is already is recorded by `worker.ledger.migrations.upgrade`, when the schema is up to date.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_NAME = "uq_event_previous"


def upgrade() -> None:
    """Add the column; a chain that forks already, which `cxrd audit verify` tells of, is held to one line from here."""
    op.add_column("event", sa.Column("rows", sa.Text))
    bind = op.get_bind()
    forks = bind.scalar(sa.text("SELECT count(*) FROM (SELECT 1 FROM event GROUP BY previous HAVING count(*) > 1) f"))
    last = bind.scalar(sa.text("SELECT max(id) FROM event")) if forks else None
    beyond = None if last is None else sa.text(f"id > {int(last)}")
    op.create_index(_NAME, "event", ["previous"], unique=True, sqlite_where=beyond, postgresql_where=beyond)


def downgrade() -> None:
    """Forget the digests of the migration; other events would not verify without theirs, and nothing is changed."""
    op.execute("DELETE FROM event WHERE id > (SELECT coalesce(max(o.id), 0) FROM event o WHERE o.kind <> 'recorded')")
    if op.get_bind().scalar(sa.text("SELECT count(*) FROM event WHERE rows IS NOT NULL")):
        raise RuntimeError("events that carry digests of rows have no place in revision 0010")
    op.drop_index(_NAME, "event")
    op.drop_column("event", "rows")
