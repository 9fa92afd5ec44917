"""The one answer in place of the bare decision; its caution, regions, lungs and score; what has no outlier score."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_LUNGS = (("lungs_share", sa.Float), ("lungs_count", sa.Integer), ("lungs_cut", sa.Integer))
_FINDING = (("caution", sa.Text), ("regions", sa.Text), *_LUNGS, ("score", sa.Float))

# As `dicom_io.finding.Finding.answer` derives it; nobody looked for lungs then. Written out: a migration never changes.
_ANSWER = """
    CASE WHEN outlier >= 1 THEN 'outside'
         WHEN prediction_set <> decision THEN 'uncertain'
         WHEN probability >= threshold THEN 'flagged'
         ELSE 'not flagged' END
"""


def upgrade() -> None:
    """Give each finding its answer, and each box its place among regions; make the views anew."""
    _drop_views()
    for table in ("finding", "shadow"):
        op.add_column(table, sa.Column("answer", sa.String(16), nullable=False, server_default=""))
        op.execute(f"UPDATE {table} SET answer = {_ANSWER}")  # noqa: S608 - names of ours, here and below
        op.drop_column(table, "decision")
    for name, kind in _FINDING:
        op.add_column("finding", sa.Column(name, kind))
    op.execute("""
        UPDATE finding SET regions = '[{"place": "", "box": [' || replace(region, ',', ', ') || ']}]'
        WHERE region IS NOT NULL
    """)
    op.drop_column("finding", "region")
    for name, kind in _LUNGS:
        op.add_column("outside", sa.Column(name, kind))
    _set_outlier(nullable=True)
    _make_views("answer", "regions", "caution", *(name for name, _ in _LUNGS), "score")


def downgrade() -> None:
    """Put decision and strongest box back; images without lungs and without an outlier score are no longer known."""
    _drop_views()
    op.execute("DELETE FROM outside WHERE outlier IS NULL")
    _set_outlier(nullable=False)
    for name, _ in reversed(_LUNGS):
        op.drop_column("outside", name)
    op.add_column("finding", sa.Column("region", sa.String(64)))
    _restore_boxes()
    for name, _ in reversed(_FINDING):
        op.drop_column("finding", name)
    for table in ("finding", "shadow"):
        op.add_column(table, sa.Column("decision", sa.String(32), nullable=False, server_default=""))
        op.execute(
            f"UPDATE {table} SET decision = CASE WHEN probability >= threshold THEN 'PNEUMONIA' ELSE 'NORMAL' END"  # noqa: S608
        )
        op.drop_column(table, "answer")
    _make_views("decision", "region")


def _set_outlier(*, nullable: bool) -> None:
    with op.batch_alter_table("outside") as batch:
        batch.alter_column("outlier", existing_type=sa.Float, nullable=nullable)


def _restore_boxes() -> None:
    finding = sa.table("finding", sa.column("id"), sa.column("region"), sa.column("regions"))
    connection = op.get_bind()
    for number, regions in connection.execute(sa.select(finding.c.id, finding.c.regions)).all():
        strongest = next(iter(json.loads(regions or "[]")), None)
        if strongest is not None:
            box = ",".join(map(str, strongest["box"]))
            connection.execute(sa.update(finding).where(finding.c.id == number).values(region=box))


def _drop_views() -> None:
    for view in ("deliveries", "answers", "findings"):
        op.execute(f"DROP VIEW {view}")


def _make_views(answer: str, regions: str, *more: str) -> None:
    """Make the views with the columns that they have had since 0005.

    Parameters
    ----------
    answer, regions
        The columns of `finding` that stand in the places of `decision` and `region`.
    more
        Columns of `finding` at the ends of `findings` and `answers`.
    """
    newest = "(SELECT max(l.id) FROM finding l WHERE l.receipt_id = r.id)"
    ends = "".join(f", f.{name}" for name in more)
    stands = f"f.{answer}"
    if answer == "answer":  # an image that was left out as outside has no finding, and this answer
        stands = """
            coalesce(f.answer, CASE WHEN r.state = 'not_analysed'
                                     AND EXISTS (SELECT 1 FROM outside o WHERE o.receipt_id = r.id)
                                    THEN 'outside' END) AS answer
        """
    own = "(x.finding_id = f.id OR f.id IS NULL AND x.receipt_id = r.id)"
    op.execute(f"""
        CREATE VIEW findings AS
        SELECT {_columns(stands, regions, own)},
               (SELECT count(*) FROM finding a WHERE a.receipt_id = r.id) AS answers,
               (SELECT n.state FROM reanalysis n WHERE n.receipt_id = r.id) AS reanalysis{ends}
        FROM receipt r LEFT JOIN finding f ON f.id = {newest}
    """)  # noqa: S608
    op.execute(f"""
        CREATE VIEW answers AS
        SELECT {_columns(f"f.{answer}", regions, "x.finding_id = f.id")},
               f.id AS finding_id, CASE WHEN f.id = {newest} THEN 1 ELSE 0 END AS stands{ends}
        FROM receipt r JOIN finding f ON f.receipt_id = r.id
    """)  # noqa: S608
    op.execute(f"""
        CREATE VIEW deliveries AS
        SELECT d.id AS delivery_id, d.destination, d.state, d.attempts, d.status, d.error,
               d.created_at, d.next_attempt_at, d.delivered_at,
               x.kind, x.sop_class_uid AS result_sop_class_uid, x.sop_instance_uid AS result_sop_instance_uid,
               r.id AS receipt_id, r.study_instance_uid, r.sop_instance_uid, r.accession_number,
               f.probability, f.{answer}, f.model
        FROM delivery d JOIN result x ON x.id = d.result_id JOIN receipt r ON r.id = x.receipt_id
             LEFT JOIN finding f ON f.id = x.finding_id
    """)  # noqa: S608


def _columns(answer: str, regions: str, own: str) -> str:
    """Return the columns that `findings` and `answers` share; `own` says which results x are counted."""
    joined = "string_agg" if op.get_bind().dialect.name == "postgresql" else "group_concat"
    deliveries = f"SELECT count(*) FROM delivery d JOIN result x ON x.id = d.result_id WHERE {own}"  # noqa: S608
    return f"""
        r.id AS receipt_id, r.received_at, r.started_at, f.analysed_at, r.finished_at,
        r.state AS status, r.reason, f.probability, {answer}, f.threshold, f.model, f.model_sha256,
        r.study_instance_uid, r.series_instance_uid, r.sop_instance_uid, r.sop_class_uid, r.transfer_syntax_uid,
        r.modality, r.accession_number, r.patient_key, r.calling_ae, r.called_ae, r.peer_address,
        r.sha256, r.size_bytes, r.attempts,
        (SELECT {joined}(x.sop_instance_uid, ' ') FROM result x WHERE {own}) AS result_uids,
        ({deliveries}) AS deliveries,
        ({deliveries} AND d.state = 'sent') AS delivered,
        f.operating_point, f.prediction_set, f.outlier, f.agent, f.agent_probability, f.{regions}, f.input_mean,
        f.input_std,
        (SELECT v.verdict FROM feedback v WHERE v.receipt_id = r.id ORDER BY v.id DESC LIMIT 1) AS feedback
    """  # noqa: S608
