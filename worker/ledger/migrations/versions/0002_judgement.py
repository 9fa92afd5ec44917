"""What an answer says of itself (operating point, conformal set, outlier, agent, region), shadow answers, feedback."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_COLUMNS = (
    ("operating_point", sa.String(32)),
    ("prediction_set", sa.String(32)),
    ("outlier", sa.Float),
    ("agent", sa.String(16)),
    ("agent_probability", sa.Float),
    ("region", sa.String(64)),
    ("input_mean", sa.Float),
    ("input_std", sa.Float),
)


def upgrade() -> None:
    """Add the columns and tables, and make the view `findings` anew with them at its end."""
    op.execute("DROP VIEW findings")
    for name, kind in _COLUMNS:
        op.add_column("receipt", sa.Column(name, kind))
    op.create_table(
        "shadow",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("receipt_id", sa.Integer, sa.ForeignKey("receipt.id"), nullable=False, index=True),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("model_sha256", sa.String(64), nullable=False),
        sa.Column("probability", sa.Float, nullable=False),
        sa.Column("decision", sa.String(32), nullable=False),
        sa.Column("threshold", sa.Float, nullable=False),
        sa.Column("operating_point", sa.String(32)),
        sa.Column("prediction_set", sa.String(32)),
        sa.Column("outlier", sa.Float),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.UniqueConstraint("receipt_id", "model_sha256"),
    )
    op.create_table(
        "feedback",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("receipt_id", sa.Integer, sa.ForeignKey("receipt.id"), nullable=False, index=True),
        sa.Column("verdict", sa.String(32), nullable=False),
        sa.Column("agent", sa.String(16)),
        sa.Column("reader", sa.String(64), nullable=False),
        sa.Column("source", sa.String(128), nullable=False),
        sa.Column("at", sa.DateTime, nullable=False),
    )
    _make_view(*(f"r.{name}" for name, _ in _COLUMNS), _LAST_VERDICT)


# The last verdict of a reader on the image, or NULL.
_LAST_VERDICT = "(SELECT f.verdict FROM feedback f WHERE f.receipt_id = r.id ORDER BY f.id DESC LIMIT 1) AS feedback"


def _make_view(*more: str) -> None:
    joined = "string_agg" if op.get_bind().dialect.name == "postgresql" else "group_concat"
    added = "".join(f", {column}" for column in more)
    op.execute(f"""
        CREATE VIEW findings AS
        SELECT r.id AS receipt_id, r.received_at, r.started_at, r.analysed_at, r.finished_at,
               r.state AS status, r.reason, r.probability, r.decision, r.threshold, r.model, r.model_sha256,
               r.study_instance_uid, r.series_instance_uid, r.sop_instance_uid, r.sop_class_uid, r.transfer_syntax_uid,
               r.modality, r.accession_number, r.patient_key, r.calling_ae, r.called_ae, r.peer_address,
               r.sha256, r.size_bytes, r.attempts,
               (SELECT {joined}(x.sop_instance_uid, ' ') FROM result x WHERE x.receipt_id = r.id) AS result_uids,
               (SELECT count(*) FROM delivery d JOIN result x ON x.id = d.result_id WHERE x.receipt_id = r.id)
                   AS deliveries,
               (SELECT count(*) FROM delivery d JOIN result x ON x.id = d.result_id
                 WHERE x.receipt_id = r.id AND d.state = 'sent') AS delivered{added}
        FROM receipt r
    """)  # noqa: S608 - names of ours


def downgrade() -> None:
    """Take columns and tables away again."""
    op.execute("DROP VIEW findings")
    op.drop_table("feedback")
    op.drop_table("shadow")
    for name, _ in reversed(_COLUMNS):
        op.drop_column("receipt", name)
    _make_view()
