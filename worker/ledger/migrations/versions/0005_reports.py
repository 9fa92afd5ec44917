"""The view `findings` counts the report on an image that was not analysed, which belongs to no finding."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_OWN = "x.finding_id = f.id"
_OWN_OR_WITHOUT = "(x.finding_id = f.id OR f.id IS NULL AND x.receipt_id = r.id)"


def upgrade() -> None:
    """Count it."""
    _make(_OWN_OR_WITHOUT)


def downgrade() -> None:
    """Count results of findings alone."""
    _make(_OWN)


def _make(own: str) -> None:
    """Make the view with the columns that it has had since 0003; `own` says which results x are counted."""
    joined = "string_agg" if op.get_bind().dialect.name == "postgresql" else "group_concat"
    deliveries = f"SELECT count(*) FROM delivery d JOIN result x ON x.id = d.result_id WHERE {own}"  # noqa: S608 - names of ours
    op.execute("DROP VIEW findings")
    op.execute(f"""
        CREATE VIEW findings AS
        SELECT r.id AS receipt_id, r.received_at, r.started_at, f.analysed_at, r.finished_at,
               r.state AS status, r.reason, f.probability, f.decision, f.threshold, f.model, f.model_sha256,
               r.study_instance_uid, r.series_instance_uid, r.sop_instance_uid, r.sop_class_uid, r.transfer_syntax_uid,
               r.modality, r.accession_number, r.patient_key, r.calling_ae, r.called_ae, r.peer_address,
               r.sha256, r.size_bytes, r.attempts,
               (SELECT {joined}(x.sop_instance_uid, ' ') FROM result x WHERE {own}) AS result_uids,
               ({deliveries}) AS deliveries,
               ({deliveries} AND d.state = 'sent') AS delivered,
               f.operating_point, f.prediction_set, f.outlier, f.agent, f.agent_probability, f.region, f.input_mean,
               f.input_std,
               (SELECT v.verdict FROM feedback v WHERE v.receipt_id = r.id ORDER BY v.id DESC LIMIT 1) AS feedback,
               (SELECT count(*) FROM finding a WHERE a.receipt_id = r.id) AS answers,
               (SELECT n.state FROM reanalysis n WHERE n.receipt_id = r.id) AS reanalysis
        FROM receipt r LEFT JOIN finding f ON f.id = (SELECT max(l.id) FROM finding l WHERE l.receipt_id = r.id)
    """)  # noqa: S608 - names of ours
