"""One finding for each receipt and model instead of one for each receipt; reanalysis; the view `answers`."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# What moves from the receipt to the finding.
_MOVED = (
    ("model", sa.String(128)),
    ("model_sha256", sa.String(64)),
    ("probability", sa.Float),
    ("decision", sa.String(32)),
    ("threshold", sa.Float),
    ("analysed_at", sa.DateTime),
    ("operating_point", sa.String(32)),
    ("prediction_set", sa.String(32)),
    ("outlier", sa.Float),
    ("agent", sa.String(16)),
    ("agent_probability", sa.Float),
    ("region", sa.String(64)),
    ("input_mean", sa.Float),
    ("input_std", sa.Float),
)
_ALWAYS = ("model", "model_sha256", "probability", "decision", "threshold", "analysed_at")
_NAMES = ", ".join(name for name, _ in _MOVED)


def upgrade() -> None:
    """Move the findings to a table of their own, each with its results, and make the views anew."""
    _drop_views()
    op.create_table(
        "finding",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("receipt_id", sa.Integer, sa.ForeignKey("receipt.id"), nullable=False),
        *(sa.Column(name, kind, nullable=name not in _ALWAYS) for name, kind in _MOVED),
        sa.UniqueConstraint("receipt_id", "model_sha256"),
    )
    filled = _NAMES.replace("analysed_at", "coalesce(analysed_at, finished_at, received_at)")
    op.execute(
        f"INSERT INTO finding (receipt_id, {_NAMES}) SELECT id, {filled} FROM receipt"  # noqa: S608 - names of ours
        " WHERE probability IS NOT NULL ORDER BY id"
    )
    # Alembic cannot add a column that refers to another table on SQLite; SQLite itself can.
    op.execute("ALTER TABLE result ADD COLUMN finding_id INTEGER REFERENCES finding (id)")
    op.execute("UPDATE result SET finding_id = (SELECT f.id FROM finding f WHERE f.receipt_id = result.receipt_id)")
    op.create_index("ix_result_finding_id", "result", ["finding_id"])
    op.add_column("delivery", sa.Column("priority", sa.Integer, nullable=False, server_default="0"))
    for name, _ in reversed(_MOVED):
        op.drop_column("receipt", name)
    op.create_table(
        "reanalysis",
        sa.Column("receipt_id", sa.Integer, sa.ForeignKey("receipt.id"), primary_key=True),
        sa.Column("model", sa.String(128), nullable=False),
        sa.Column("model_sha256", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("requested_by", sa.String(64), nullable=False),
        sa.Column("requested_at", sa.DateTime, nullable=False),
        sa.Column("started_at", sa.DateTime),
        sa.Column("finished_at", sa.DateTime),
        sa.Column("next_attempt_at", sa.DateTime, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("crashes", sa.Integer, nullable=False),
    )
    op.create_index("ix_reanalysis_state", "reanalysis", ["state", "model_sha256", "next_attempt_at"])
    newest = "(SELECT max(l.id) FROM finding l WHERE l.receipt_id = r.id)"
    op.execute(f"""
        CREATE VIEW findings AS
        SELECT {_columns("f", "x.finding_id = f.id")},
               (SELECT count(*) FROM finding a WHERE a.receipt_id = r.id) AS answers,
               (SELECT n.state FROM reanalysis n WHERE n.receipt_id = r.id) AS reanalysis
        FROM receipt r LEFT JOIN finding f ON f.id = {newest}
    """)  # noqa: S608 - names of ours, here and below
    op.execute(f"""
        CREATE VIEW answers AS
        SELECT {_columns("f", "x.finding_id = f.id")},
               f.id AS finding_id, CASE WHEN f.id = {newest} THEN 1 ELSE 0 END AS stands
        FROM receipt r JOIN finding f ON f.receipt_id = r.id
    """)  # noqa: S608
    _make_deliveries("LEFT JOIN finding f ON f.id = x.finding_id", "f", ", f.model")


def downgrade() -> None:
    """Put each image's newest finding back into its receipt; the earlier ones are lost, and so is what waits."""
    _drop_views()
    for name, kind in _MOVED:
        op.add_column("receipt", sa.Column(name, kind))
    for name, _ in _MOVED:
        op.execute(
            f"UPDATE receipt SET {name} = (SELECT f.{name} FROM finding f WHERE f.receipt_id = receipt.id"  # noqa: S608
            " ORDER BY f.id DESC LIMIT 1)"
        )
    op.drop_table("reanalysis")
    op.drop_column("delivery", "priority")
    op.drop_index("ix_result_finding_id", "result")
    op.drop_column("result", "finding_id")
    op.drop_table("finding")
    op.execute(f"CREATE VIEW findings AS SELECT {_columns('r', 'x.receipt_id = r.id')} FROM receipt r")  # noqa: S608
    _make_deliveries("", "r", "")


def _drop_views() -> None:
    op.execute("DROP VIEW deliveries")
    op.execute("DROP VIEW IF EXISTS answers")
    op.execute("DROP VIEW findings")


def _columns(said: str, own: str) -> str:
    """Return the columns that `findings` has had since 0002.

    Parameters
    ----------
    said
        The table that holds what the model said: f (finding) or r (receipt).
    own
        Which results x are counted.
    """
    joined = "string_agg" if op.get_bind().dialect.name == "postgresql" else "group_concat"
    more = [name for name, _ in _MOVED if name not in _ALWAYS]
    return f"""
        r.id AS receipt_id, r.received_at, r.started_at, {said}.analysed_at, r.finished_at,
        r.state AS status, r.reason, {said}.probability, {said}.decision, {said}.threshold, {said}.model,
        {said}.model_sha256,
        r.study_instance_uid, r.series_instance_uid, r.sop_instance_uid, r.sop_class_uid, r.transfer_syntax_uid,
        r.modality, r.accession_number, r.patient_key, r.calling_ae, r.called_ae, r.peer_address,
        r.sha256, r.size_bytes, r.attempts,
        (SELECT {joined}(x.sop_instance_uid, ' ') FROM result x WHERE {own}) AS result_uids,
        (SELECT count(*) FROM delivery d JOIN result x ON x.id = d.result_id WHERE {own}) AS deliveries,
        (SELECT count(*) FROM delivery d JOIN result x ON x.id = d.result_id WHERE {own} AND d.state = 'sent')
            AS delivered,
        {", ".join(f"{said}.{name}" for name in more)},
        (SELECT v.verdict FROM feedback v WHERE v.receipt_id = r.id ORDER BY v.id DESC LIMIT 1) AS feedback
    """  # noqa: S608


def _make_deliveries(joined: str, said: str, more: str) -> None:
    op.execute(f"""
        CREATE VIEW deliveries AS
        SELECT d.id AS delivery_id, d.destination, d.state, d.attempts, d.status, d.error,
               d.created_at, d.next_attempt_at, d.delivered_at,
               x.kind, x.sop_class_uid AS result_sop_class_uid, x.sop_instance_uid AS result_sop_instance_uid,
               r.id AS receipt_id, r.study_instance_uid, r.sop_instance_uid, r.accession_number,
               {said}.probability, {said}.decision{more}
        FROM delivery d JOIN result x ON x.id = d.result_id JOIN receipt r ON r.id = x.receipt_id {joined}
    """)  # noqa: S608
