"""Which deliveries a node was asked to commit to keeping, and what it said; under which UID a delivery went."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    """Make the table of requests; deliveries so far went under their results' own UIDs, or nobody will ask."""
    op.create_table(
        "commitment",
        sa.Column("id", _BIG, primary_key=True),
        sa.Column("transaction_uid", sa.String(64), nullable=False),
        sa.Column("delivery_id", sa.Integer, sa.ForeignKey("delivery.id", ondelete="CASCADE"), nullable=False),
        sa.Column("destination", sa.String(64), nullable=False),
        sa.Column("sop_class_uid", sa.String(64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("asked_at", sa.DateTime, nullable=False),
        sa.Column("answered_at", sa.DateTime),
        sa.Column("reason", sa.Integer),
        sa.UniqueConstraint("transaction_uid", "delivery_id"),
    )
    op.create_index("ix_commitment_delivery", "commitment", ["delivery_id"])
    op.add_column("delivery", sa.Column("sent_as", sa.String(64), nullable=False, server_default=""))
    few = sa.text("state = 'sent' AND error <> ''")
    op.create_index("ix_delivery_uncommitted", "delivery", ["destination"], sqlite_where=few, postgresql_where=few)


def downgrade() -> None:
    """Forget what was asked; what is waiting to be asked goes too."""
    op.execute("DELETE FROM task WHERE kind = 'commit'")
    op.drop_index("ix_delivery_uncommitted", "delivery")
    op.drop_column("delivery", "sent_as")
    op.drop_table("commitment")
