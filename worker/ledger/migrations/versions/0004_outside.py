"""What the model's gate left out: its score and the input's statistics, for drift."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table; what was left out before it has no row."""
    op.create_table(
        "outside",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("receipt_id", sa.Integer, sa.ForeignKey("receipt.id"), nullable=False),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("model_sha256", sa.String(64), nullable=False),
        sa.Column("outlier", sa.Float, nullable=False),
        sa.Column("input_mean", sa.Float, nullable=False),
        sa.Column("input_std", sa.Float, nullable=False),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.UniqueConstraint("receipt_id", "model_sha256"),
    )


def downgrade() -> None:
    """Take it away again."""
    op.drop_table("outside")
