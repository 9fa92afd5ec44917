"""Versions of one SOP instance; the digest of the data set alone; when a deleted file was stored anew."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_KEPT = sa.text("deleted_at IS NULL")
_NEW = (("version", sa.Integer), ("content_sha256", sa.String(64)), ("restored_at", sa.DateTime))
_TASK = "LEFT JOIN task t ON t.kind = 'analyse' AND t.subject = r.id"
_REPLACED_BY = """
    (SELECT n.id FROM receipt n WHERE n.sop_instance_uid = r.sop_instance_uid AND n.version = r.version + 1)
"""


def upgrade() -> None:
    """Let a SOP instance have several receipts; what there is so far are first versions."""
    _drop_views()
    op.add_column("receipt", sa.Column("version", sa.Integer, nullable=False, server_default="1"))
    op.add_column("receipt", sa.Column("content_sha256", sa.String(64)))
    op.add_column("receipt", sa.Column("restored_at", sa.DateTime))
    _make_unique("sop_instance_uid", "version")
    _make_views(versions=True)


def downgrade() -> None:
    """Forget the digests; where a SOP instance has versions, they would have no place, and nothing is changed."""
    if op.get_bind().scalar(sa.text("SELECT count(*) FROM receipt WHERE version > 1")):
        raise RuntimeError("images with several versions have no place in revision 0009")
    _drop_views()
    _make_unique("sop_instance_uid")
    for name, _ in _NEW:
        op.drop_column("receipt", name)
    _make_views(versions=False)


def _make_unique(*names: str) -> None:
    """Make receipts unique by these columns, instead of what they were unique by."""
    if op.get_bind().dialect.name == "postgresql":
        (before,) = sa.inspect(op.get_bind()).get_unique_constraints("receipt")
        op.drop_constraint(str(before["name"]), "receipt")
        op.create_unique_constraint(None, "receipt", list(names))
        return
    # SQLite can do that to a new table alone. Other tables refer to this one by its name: that their rows have nothing
    # to refer to for a moment is looked at when the transaction ends.
    op.execute("PRAGMA defer_foreign_keys = ON")
    op.execute("CREATE TABLE receipt_before AS SELECT * FROM receipt")
    op.drop_table("receipt")
    columns = _columns_of_receipt()
    op.create_table("receipt", *columns, sa.UniqueConstraint(*names))
    every = ", ".join(column.name for column in columns)
    op.execute(f"INSERT INTO receipt ({every}) SELECT {every} FROM receipt_before")  # noqa: S608 - names of ours
    op.drop_table("receipt_before")
    for name in ("state", "received_at", "sha256", "study_instance_uid", "accession_number"):
        op.create_index(f"ix_receipt_{name}", "receipt", [name])
    op.create_index("ix_receipt_kept", "receipt", ["finished_at"], sqlite_where=_KEPT)


def _columns_of_receipt() -> list[sa.Column[Any]]:
    def text(name: str, length: int | None = None, default: str | None = None) -> sa.Column[Any]:
        kind = sa.String(length) if length else sa.Text()
        return sa.Column(name, kind, nullable=False, server_default=default)

    return [
        sa.Column("id", sa.Integer, primary_key=True),
        *(text(f"{name}_uid", 64) for name in ("sop_instance", "sop_class", "study_instance", "series_instance")),
        text("transfer_syntax_uid", 64),
        text("modality", 16),
        text("accession_number", 64),
        text("patient_key", 128),
        text("calling_ae", 16),
        text("called_ae", 16),
        text("peer_address", 64),
        text("sha256", 64),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("received_at", sa.DateTime, nullable=False),
        sa.Column("started_at", sa.DateTime),
        sa.Column("finished_at", sa.DateTime),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False, server_default="2"),
        text("store", 32, ""),
        text("state", 16),
        text("reason"),
        sa.Column("deleted_at", sa.DateTime),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
        sa.Column("content_sha256", sa.String(64)),
        sa.Column("restored_at", sa.DateTime),
    ]


def _drop_views() -> None:
    for view in ("deliveries", "answers", "findings"):
        op.execute(f"DROP VIEW {view}")


def _make_views(*, versions: bool) -> None:
    """Make the views with the columns that they have had since 0007, and those of versions at their ends."""
    newest = "(SELECT max(l.id) FROM finding l WHERE l.receipt_id = r.id)"
    due = "(SELECT t.due_at FROM task t WHERE t.kind = 'deliver' AND t.subject = d.id)"
    ends = ", f.caution, f.lungs_share, f.lungs_count, f.lungs_cut, f.score"
    ends += f", r.version, {_REPLACED_BY} AS replaced_by" if versions else ""
    stands = """
        coalesce(f.answer, CASE WHEN r.state = 'not_analysed'
                                 AND EXISTS (SELECT 1 FROM outside o WHERE o.receipt_id = r.id)
                                THEN 'outside' END) AS answer
    """
    own = "(x.finding_id = f.id OR f.id IS NULL AND x.receipt_id = r.id)"
    op.execute(f"""
        CREATE VIEW findings AS
        SELECT {_columns(stands, own)},
               (SELECT count(*) FROM finding a WHERE a.receipt_id = r.id) AS answers,
               (SELECT n.state FROM reanalysis n WHERE n.receipt_id = r.id) AS reanalysis{ends}
        FROM receipt r LEFT JOIN finding f ON f.id = {newest} {_TASK}
    """)  # noqa: S608 - names of ours, here and below
    op.execute(f"""
        CREATE VIEW answers AS
        SELECT {_columns("f.answer", "x.finding_id = f.id")},
               f.id AS finding_id, CASE WHEN f.id = {newest} THEN 1 ELSE 0 END AS stands{ends}
        FROM receipt r JOIN finding f ON f.receipt_id = r.id {_TASK}
    """)  # noqa: S608
    op.execute(f"""
        CREATE VIEW deliveries AS
        SELECT d.id AS delivery_id, d.destination, d.state, d.attempts, d.status, d.error,
               d.created_at, {due} AS next_attempt_at, d.delivered_at,
               x.kind, x.sop_class_uid AS result_sop_class_uid, x.sop_instance_uid AS result_sop_instance_uid,
               r.id AS receipt_id, r.study_instance_uid, r.sop_instance_uid, r.accession_number,
               f.probability, f.answer, f.model, d.committed_at
        FROM delivery d JOIN result x ON x.id = d.result_id JOIN receipt r ON r.id = x.receipt_id
             LEFT JOIN finding f ON f.id = x.finding_id
    """)  # noqa: S608


def _columns(answer: str, own: str) -> str:
    """Return the columns that `findings` and `answers` share; `own` says which results x are counted."""
    joined = "string_agg" if op.get_bind().dialect.name == "postgresql" else "group_concat"
    deliveries = f"SELECT count(*) FROM delivery d JOIN result x ON x.id = d.result_id WHERE {own}"  # noqa: S608
    return f"""
        r.id AS receipt_id, r.received_at, r.started_at, f.analysed_at, r.finished_at,
        r.state AS status, coalesce(t.reason, r.reason) AS reason, f.probability, {answer}, f.threshold, f.model,
        f.model_sha256,
        r.study_instance_uid, r.series_instance_uid, r.sop_instance_uid, r.sop_class_uid, r.transfer_syntax_uid,
        r.modality, r.accession_number, r.patient_key, r.calling_ae, r.called_ae, r.peer_address,
        r.sha256, r.size_bytes, coalesce(t.attempts, r.attempts) AS attempts,
        (SELECT {joined}(x.sop_instance_uid, ' ') FROM result x WHERE {own}) AS result_uids,
        ({deliveries}) AS deliveries,
        ({deliveries} AND d.state IN ('sent', 'committed')) AS delivered,
        f.operating_point, f.prediction_set, f.outlier, f.agent, f.agent_probability, f.regions, f.input_mean,
        f.input_std,
        (SELECT v.verdict FROM feedback v WHERE v.receipt_id = r.id ORDER BY v.id DESC LIMIT 1) AS feedback
    """  # noqa: S608
