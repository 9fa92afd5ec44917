"""The search for files that nothing owns: it never takes one that somebody may still count on."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from dicom_io.errors import OutOfResources
from dicom_io.network.spool_file import SpoolFile
from worker.storage.blobs import Blobs, is_confirmed
from worker.storage.orphans import AGE, Owner, Search, find_orphans, remove_orphan

NOW = dt.datetime.now(dt.UTC)
OLD = NOW - 2 * AGE


class Rows:
    """A ledger's digests, with the times of their deletion; notes what it was asked."""

    def __init__(self) -> None:
        self.rows: dict[str, Owner] = {}
        self.questions: list[str] = []

    def __call__(self, beginning: str) -> Mapping[str, Owner]:
        self.questions.append(beginning)
        return {sha256: owner for sha256, owner in self.rows.items() if sha256.startswith(beginning)}


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "objects")


def put(blobs: Blobs, data: bytes, suffix: str = ".dcm", at: dt.datetime = OLD) -> str:
    """Store bytes as if at another time; return their digest."""
    sha256 = blobs.put(data, suffix)
    os.utime(blobs.path(sha256, suffix), (at.timestamp(), at.timestamp()))
    return sha256


def half_made(folder: Path, at: dt.datetime) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{at.timestamp()}.part"
    path.write_bytes(b"half")
    os.utime(path, (at.timestamp(), at.timestamp()))
    return path


def removed(blobs: Blobs, search: Search, rows: Rows) -> set[Path]:
    return {each.path for each in search.orphans if remove_orphan(blobs, each, rows, NOW)}


def test_only_old_files_without_a_row_go(blobs: Blobs) -> None:
    rows = Rows()
    owned, orphan = put(blobs, b"owned"), put(blobs, b"orphan")
    told, told_of = put(blobs, b"{}", ".json"), put(blobs, b"[]", ".json")
    put(blobs, b"young", at=NOW)
    rows.rows = {owned: Owner(received=True), told: Owner(received=False)}
    (blobs.folder / "ab").mkdir(exist_ok=True)
    (blobs.folder / "ab" / "notes.txt").touch()  # not ours
    search = find_orphans(blobs, rows, NOW)
    assert removed(blobs, search, rows) == {blobs.path(orphan), blobs.path(told_of, ".json")}
    assert search.size_bytes == len(b"orphan") + len(b"[]")
    assert blobs.find(owned).read_bytes() == b"owned"
    assert find_orphans(blobs, rows, NOW) == Search()


def test_a_folder_at_a_time_is_asked_about(blobs: Blobs) -> None:
    rows = Rows()
    names = {put(blobs, bytes([number]))[:2] for number in range(9)}
    find_orphans(blobs, rows, NOW)
    assert rows.questions == sorted(names)


def test_what_was_received_and_has_a_row_is_confirmed(blobs: Blobs) -> None:
    rows = Rows()
    received, result = put(blobs, b"received", at=NOW), put(blobs, b"result", at=NOW)
    rows.rows = {received: Owner(received=True), result: Owner(received=False)}
    find_orphans(blobs, rows, NOW)
    assert is_confirmed(blobs.path(received).stat().st_mode)
    assert not is_confirmed(blobs.path(result).stat().st_mode), "it may be replaced, and can be made again"


def test_an_acknowledged_object_without_a_row_is_kept(blobs: Blobs) -> None:
    """The ledger was restored from an older backup: this may be the only copy."""
    rows = Rows()
    sha256 = put(blobs, b"acknowledged")
    blobs.confirm(sha256)
    search = find_orphans(blobs, rows, NOW)
    assert (search.orphans, [each.sha256 for each in search.acknowledged]) == ([], [sha256])
    assert remove_orphan(blobs, search.acknowledged[0], rows, NOW) == 0
    assert blobs.find(sha256).read_bytes() == b"acknowledged"


def test_what_a_row_says_is_deleted_goes(blobs: Blobs) -> None:
    """The process died between the row and the file."""
    rows = Rows()
    deleted, again = put(blobs, b"deleted"), put(blobs, b"again")
    for sha256 in (deleted, again):
        blobs.confirm(sha256)
    hour = dt.timedelta(hours=1)
    rows.rows = {deleted: Owner(True, OLD + hour), again: Owner(True, OLD - hour)}  # the second came again
    search = find_orphans(blobs, rows, NOW)
    assert removed(blobs, search, rows) == {blobs.path(deleted)}
    assert search.acknowledged == []


def test_half_made_files_go_if_they_are_old_and_nobody_has_them_open(blobs: Blobs) -> None:
    rows = Rows()
    left = [half_made(folder, OLD) for folder in (blobs.incoming, blobs.incoming / "pull", blobs.folder / "making")]
    young, living = half_made(blobs.incoming, NOW), SpoolFile(blobs.incoming)
    living.write(b"half")
    living.flush_to_disk()
    os.utime(living.path, (OLD.timestamp(), OLD.timestamp()))  # a sender that has been slow for two days
    search = find_orphans(blobs, rows, NOW)
    assert removed(blobs, search, rows) == set(left)
    assert young.exists()
    assert living.path.exists()
    living.discard()


def test_what_is_owned_by_the_time_of_its_removal_stays(blobs: Blobs) -> None:
    rows = Rows()
    entered, placed, gone, open_again = (put(blobs, text) for text in (b"entered", b"placed", b"gone", b"told"))
    part = half_made(blobs.incoming, OLD)
    search = find_orphans(blobs, rows, NOW)
    assert len(search.orphans) == 5
    rows.rows[entered] = Owner(received=True)
    blobs.put(b"placed")
    blobs.path(gone).unlink()
    blobs.confirm(open_again)
    part.unlink()
    living = SpoolFile(blobs.incoming)
    living.path.rename(part)
    os.utime(part, (OLD.timestamp(), OLD.timestamp()))
    assert removed(blobs, search, rows) == set()
    assert [blobs.find(sha256).read_bytes() for sha256 in (entered, placed, open_again)] == [
        b"entered",
        b"placed",
        b"told",
    ]
    living.close()


def test_a_store_that_is_not_there_has_no_orphans(blobs: Blobs) -> None:
    blobs.folder.rename(blobs.folder.with_name("away"))
    with pytest.raises(OutOfResources):
        find_orphans(blobs, Rows(), NOW)
