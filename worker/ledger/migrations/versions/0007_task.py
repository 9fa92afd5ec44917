"""One queue of tasks instead of three; breakers; processes; priority of images; deliveries that were committed to."""

import sqlalchemy as sa
from alembic import op

from dicom_io.fail_points import reached

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_ROUTINE, _AGAIN = 2, 5


def upgrade() -> None:
    """Make a task of each thing that is still to be done, and take its time out of the rows of the subjects."""
    _drop_views()
    op.create_table(
        "task",
        sa.Column("id", _BIG, primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("subject", _BIG, nullable=False),
        sa.Column("target", sa.String(64), nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("due_at", sa.DateTime, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("crashes", sa.Integer, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("lease_until", sa.DateTime),
        sa.Column("token", sa.String(32), nullable=False),
        sa.Column("store", sa.String(32), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.UniqueConstraint("kind", "subject", "target"),
    )
    op.create_index("ix_task_due", "task", ["kind", "target", "priority", "id"])
    op.create_index("ix_task_lease", "task", ["state", "lease_until"])
    op.create_table(
        "breaker",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("since", sa.DateTime, nullable=False),
        sa.Column("next_probe_at", sa.DateTime, nullable=False),
    )
    op.create_table(
        "process",
        sa.Column("owner", sa.String(64), primary_key=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("host", sa.String(255), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("started_at", sa.DateTime, nullable=False),
        sa.Column("seen_at", sa.DateTime, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
    _make_tasks()
    reached("migrating")
    op.execute("UPDATE receipt SET state = 'received' WHERE state = 'working'")
    op.execute("UPDATE reanalysis SET state = 'waiting' WHERE state = 'working'")
    for table, name in (("receipt", "state"), ("delivery", "due"), ("reanalysis", "state")):
        op.drop_index(f"ix_{table}_{name}", table)
    for table, names in _DROPPED.items():
        for name in names:
            op.drop_column(table, name)
    op.create_index("ix_receipt_state", "receipt", ["state"])
    op.create_index("ix_delivery_state", "delivery", ["destination", "state"])
    op.create_index("ix_reanalysis_state", "reanalysis", ["state", "model_sha256"])
    op.add_column("receipt", sa.Column("priority", sa.Integer, nullable=False, server_default=str(_ROUTINE)))
    op.add_column("delivery", sa.Column("committed_at", sa.DateTime))
    for table in ("receipt", "result"):
        op.add_column(table, sa.Column("store", sa.String(32), nullable=False, server_default=""))
    due = "(SELECT t.due_at FROM task t WHERE t.kind = 'deliver' AND t.subject = d.id)"
    _make_views(due, ", d.committed_at", "LEFT JOIN task t ON t.kind = 'analyse' AND t.subject = r.id")


_DROPPED = {
    "receipt": ("next_attempt_at", "crashes"),
    "delivery": ("next_attempt_at", "first_due_at", "priority"),
    "reanalysis": ("next_attempt_at", "attempts", "crashes"),
}


def _make_tasks() -> None:
    columns = (
        "kind, subject, target, priority, due_at, attempts, crashes, state, owner, token, store, reason, created_at"
    )
    of_receipts = f"""
        SELECT 'analyse', id, '', {_ROUTINE}, next_attempt_at, attempts, crashes, 'waiting', '', '', '', reason,
               received_at
        FROM receipt WHERE state IN ('received', 'working') ORDER BY id
    """  # noqa: S608 - names of ours, here and below
    of_requests = f"""
        SELECT 'reanalyse', receipt_id, model_sha256, {_AGAIN}, next_attempt_at, attempts, crashes, 'waiting',
               '', '', '', reason, requested_at
        FROM reanalysis WHERE state IN ('waiting', 'working') ORDER BY receipt_id
    """  # noqa: S608
    of_deliveries = f"""
        SELECT 'deliver', id, destination, CASE priority WHEN 0 THEN {_ROUTINE} ELSE {_AGAIN} END, next_attempt_at,
               attempts, 0, 'waiting', '', '', '', error, first_due_at
        FROM delivery WHERE state = 'pending' ORDER BY id
    """  # noqa: S608
    for query in (of_receipts, of_requests, of_deliveries):
        op.execute(f"INSERT INTO task ({columns}) {query}")


def downgrade() -> None:
    """Put the times back into the rows of the subjects; who is down, and which delivery was committed to, is lost."""
    _drop_views()
    op.execute("UPDATE delivery SET state = 'sent' WHERE state = 'committed'")
    op.drop_column("delivery", "committed_at")
    for table in ("receipt", "result"):
        op.drop_column(table, "store")
    op.drop_column("receipt", "priority")
    for table, name in (("receipt", "state"), ("delivery", "state"), ("reanalysis", "state")):
        op.drop_index(f"ix_{table}_{name}", table)
    past = "2000-01-01 00:00:00"
    for table in ("receipt", "delivery", "reanalysis"):
        op.add_column(table, sa.Column("next_attempt_at", sa.DateTime, nullable=False, server_default=past))
    op.add_column("delivery", sa.Column("first_due_at", sa.DateTime, nullable=False, server_default=past))
    op.execute("UPDATE delivery SET first_due_at = created_at")
    op.add_column("delivery", sa.Column("priority", sa.Integer, nullable=False, server_default="0"))
    op.add_column("receipt", sa.Column("crashes", sa.Integer, nullable=False, server_default="0"))
    for name in ("attempts", "crashes"):
        op.add_column("reanalysis", sa.Column(name, sa.Integer, nullable=False, server_default="0"))
    op.create_index("ix_receipt_state", "receipt", ["state", "next_attempt_at"])
    op.create_index("ix_delivery_due", "delivery", ["destination", "state", "next_attempt_at"])
    op.create_index("ix_reanalysis_state", "reanalysis", ["state", "model_sha256", "next_attempt_at"])
    for table in ("process", "breaker", "task"):
        op.drop_table(table)
    _make_views("d.next_attempt_at", "", "")


def _drop_views() -> None:
    for view in ("deliveries", "answers", "findings"):
        op.execute(f"DROP VIEW {view}")


def _make_views(next_attempt: str, more: str, task: str) -> None:
    """Make the views with the columns that they have had since 0006.

    Parameters
    ----------
    next_attempt
        When a delivery d is due.
    more
        Columns at the end of `deliveries`.
    task
        What joins a receipt r with its task t, which tells why it waits and how often it was begun; empty where the
        receipt tells it itself.
    """
    newest = "(SELECT max(l.id) FROM finding l WHERE l.receipt_id = r.id)"
    ends = ", f.caution, f.lungs_share, f.lungs_count, f.lungs_cut, f.score"
    stands = """
        coalesce(f.answer, CASE WHEN r.state = 'not_analysed'
                                 AND EXISTS (SELECT 1 FROM outside o WHERE o.receipt_id = r.id)
                                THEN 'outside' END) AS answer
    """
    own = "(x.finding_id = f.id OR f.id IS NULL AND x.receipt_id = r.id)"
    op.execute(f"""
        CREATE VIEW findings AS
        SELECT {_columns(stands, own, task)},
               (SELECT count(*) FROM finding a WHERE a.receipt_id = r.id) AS answers,
               (SELECT n.state FROM reanalysis n WHERE n.receipt_id = r.id) AS reanalysis{ends}
        FROM receipt r LEFT JOIN finding f ON f.id = {newest} {task}
    """)  # noqa: S608 - names of ours, here and below
    op.execute(f"""
        CREATE VIEW answers AS
        SELECT {_columns("f.answer", "x.finding_id = f.id", task)},
               f.id AS finding_id, CASE WHEN f.id = {newest} THEN 1 ELSE 0 END AS stands{ends}
        FROM receipt r JOIN finding f ON f.receipt_id = r.id {task}
    """)  # noqa: S608
    op.execute(f"""
        CREATE VIEW deliveries AS
        SELECT d.id AS delivery_id, d.destination, d.state, d.attempts, d.status, d.error,
               d.created_at, {next_attempt} AS next_attempt_at, d.delivered_at,
               x.kind, x.sop_class_uid AS result_sop_class_uid, x.sop_instance_uid AS result_sop_instance_uid,
               r.id AS receipt_id, r.study_instance_uid, r.sop_instance_uid, r.accession_number,
               f.probability, f.answer, f.model{more}
        FROM delivery d JOIN result x ON x.id = d.result_id JOIN receipt r ON r.id = x.receipt_id
             LEFT JOIN finding f ON f.id = x.finding_id
    """)  # noqa: S608


def _columns(answer: str, own: str, task: str) -> str:
    """Return the columns that `findings` and `answers` share; `own` says which results x are counted."""
    reason, attempts = (f"coalesce(t.{name}, r.{name})" if task else f"r.{name}" for name in ("reason", "attempts"))
    joined = "string_agg" if op.get_bind().dialect.name == "postgresql" else "group_concat"
    deliveries = f"SELECT count(*) FROM delivery d JOIN result x ON x.id = d.result_id WHERE {own}"  # noqa: S608
    return f"""
        r.id AS receipt_id, r.received_at, r.started_at, f.analysed_at, r.finished_at,
        r.state AS status, {reason} AS reason, f.probability, {answer}, f.threshold, f.model, f.model_sha256,
        r.study_instance_uid, r.series_instance_uid, r.sop_instance_uid, r.sop_class_uid, r.transfer_syntax_uid,
        r.modality, r.accession_number, r.patient_key, r.calling_ae, r.called_ae, r.peer_address,
        r.sha256, r.size_bytes, {attempts} AS attempts,
        (SELECT {joined}(x.sop_instance_uid, ' ') FROM result x WHERE {own}) AS result_uids,
        ({deliveries}) AS deliveries,
        ({deliveries} AND d.state IN ('sent', 'committed')) AS delivered,
        f.operating_point, f.prediction_set, f.outlier, f.agent, f.agent_probability, f.regions, f.input_mean,
        f.input_std,
        (SELECT v.verdict FROM feedback v WHERE v.receipt_id = r.id ORDER BY v.id DESC LIMIT 1) AS feedback
    """  # noqa: S608
