"""Which UID a result has, and what hides one in the log."""

from __future__ import annotations

from pydicom.uid import UID

from dicom_io.uids import derived_uid, digest


def test_a_derived_uid_is_valid_and_depends_on_all_three() -> None:
    uid = derived_uid("1.2.3", "model-1", "secondary-capture")
    assert UID(uid).is_valid
    assert uid == derived_uid("1.2.3", "model-1", "secondary-capture") == "2.25.19455560823871031821222264235053524469"
    others = {
        derived_uid("1.2.4", "model-1", "secondary-capture"),
        derived_uid("1.2.3", "model-2", "secondary-capture"),
    }
    assert len({uid, *others, derived_uid("1.2.3", "model-1", "series")}) == 4


def test_a_digest_hides_the_uid() -> None:
    assert digest("1.2.3") == "c47f5b18b8a4"
