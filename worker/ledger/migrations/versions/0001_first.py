"""The first schema: receipt, result, delivery, event, and the views findings, deliveries and refusals."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables and the views."""
    op.create_table(
        "receipt",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False, unique=True),
        sa.Column("sop_class_uid", sa.String(64), nullable=False),
        sa.Column("study_instance_uid", sa.String(64), nullable=False, index=True),
        sa.Column("series_instance_uid", sa.String(64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(64), nullable=False),
        sa.Column("modality", sa.String(16), nullable=False),
        sa.Column("accession_number", sa.String(64), nullable=False, index=True),
        sa.Column("patient_key", sa.String(128), nullable=False),
        sa.Column("calling_ae", sa.String(16), nullable=False),
        sa.Column("called_ae", sa.String(16), nullable=False),
        sa.Column("peer_address", sa.String(64), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("received_at", sa.DateTime, nullable=False),
        sa.Column("started_at", sa.DateTime),
        sa.Column("analysed_at", sa.DateTime),
        sa.Column("finished_at", sa.DateTime),
        sa.Column("next_attempt_at", sa.DateTime, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("crashes", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("model", sa.String(128)),
        sa.Column("model_sha256", sa.String(64)),
        sa.Column("probability", sa.Float),
        sa.Column("decision", sa.String(32)),
        sa.Column("threshold", sa.Float),
    )
    op.create_index("ix_receipt_state", "receipt", ["state", "next_attempt_at"])
    op.create_index("ix_receipt_received_at", "receipt", ["received_at"])
    op.create_table(
        "result",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("receipt_id", sa.Integer, sa.ForeignKey("receipt.id"), nullable=False, index=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("sop_class_uid", sa.String(64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False, unique=True),
        sa.Column("series_instance_uid", sa.String(64), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
    )
    op.create_table(
        "delivery",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("result_id", sa.Integer, sa.ForeignKey("result.id"), nullable=False),
        sa.Column("destination", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("status", sa.Integer),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("first_due_at", sa.DateTime, nullable=False),
        sa.Column("next_attempt_at", sa.DateTime, nullable=False),
        sa.Column("delivered_at", sa.DateTime),
        sa.UniqueConstraint("result_id", "destination"),
    )
    op.create_index("ix_delivery_due", "delivery", ["destination", "state", "next_attempt_at"])
    op.create_table(
        "event",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("receipt_id", sa.Integer, sa.ForeignKey("receipt.id"), index=True),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
    )
    joined = "string_agg" if op.get_bind().dialect.name == "postgresql" else "group_concat"
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
                 WHERE x.receipt_id = r.id AND d.state = 'sent') AS delivered
        FROM receipt r
    """)  # noqa: S608 - a function name of ours
    op.execute("""
        CREATE VIEW deliveries AS
        SELECT d.id AS delivery_id, d.destination, d.state, d.attempts, d.status, d.error,
               d.created_at, d.next_attempt_at, d.delivered_at,
               x.kind, x.sop_class_uid AS result_sop_class_uid, x.sop_instance_uid AS result_sop_instance_uid,
               r.id AS receipt_id, r.study_instance_uid, r.sop_instance_uid, r.accession_number,
               r.probability, r.decision
        FROM delivery d JOIN result x ON x.id = d.result_id JOIN receipt r ON r.id = x.receipt_id
    """)

    op.execute("CREATE VIEW refusals AS SELECT id AS event_id, at, detail FROM event WHERE kind = 'refused'")


def downgrade() -> None:
    """Drop everything."""
    op.execute("DROP VIEW refusals")
    op.execute("DROP VIEW deliveries")
    op.execute("DROP VIEW findings")
    for table in ("event", "delivery", "result", "receipt"):
        op.drop_table(table)
