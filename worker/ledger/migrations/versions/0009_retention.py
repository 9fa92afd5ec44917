"""When the files of an image were deleted; and the indexes by which what may go, and who owns a file, is found."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_KEPT = sa.text("deleted_at IS NULL")


def upgrade() -> None:
    """Nothing was ever deleted so far."""
    for table, age in (("receipt", "finished_at"), ("result", "created_at")):
        op.add_column(table, sa.Column("deleted_at", sa.DateTime))
        op.create_index(f"ix_{table}_kept", table, [age], sqlite_where=_KEPT, postgresql_where=_KEPT)
        op.create_index(f"ix_{table}_sha256", table, ["sha256"])


def downgrade() -> None:
    """Forget what was deleted: whoever asks for such a file will miss it."""
    for table in ("receipt", "result"):
        op.drop_index(f"ix_{table}_sha256", table)
        op.drop_index(f"ix_{table}_kept", table)
        op.drop_column(table, "deleted_at")
