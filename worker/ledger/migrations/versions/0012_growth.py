"""Indexes by which what runs by itself finds the few rows that it wants among those of years."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_INDEXES: tuple[tuple[str, str, list[Any], str], ...] = (
    ("ix_delivery_unfinished", "delivery", ["state", "destination"], "state IN ('pending', 'failed')"),
    ("ix_commitment_unanswered", "commitment", ["destination"], "answered_at IS NULL"),
    ("ix_event_refused", "event", ["kind", "id"], "kind = 'refused'"),
    ("ix_task_again", "task", ["target", "priority", sa.text("subject DESC")], "kind = 'reanalyse'"),
    ("ix_task_crashed", "task", ["crashes"], "crashes > 0"),
)


def upgrade() -> None:
    """Make them."""
    for name, table, columns, which in _INDEXES:
        op.create_index(name, table, columns, sqlite_where=sa.text(which), postgresql_where=sa.text(which))


def downgrade() -> None:
    """Do without them."""
    for name, table, _, _ in _INDEXES:
        op.drop_index(name, table)
