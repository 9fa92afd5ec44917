"""The store: durable, marked, able to tell a missing file from a missing volume."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dicom_io.errors import OutOfResources
from dicom_io.network.spool_file import SpoolFile
from worker.storage.blobs import MARK, BlobMissing, Blobs, is_confirmed


def unmount(blobs: Blobs) -> Path:
    """Leave an empty folder in the place of the store; return where it is now."""
    away = blobs.folder.with_name("away")
    blobs.folder.rename(away)
    blobs.folder.mkdir()
    return away


def mount(blobs: Blobs, away: Path) -> None:
    shutil.rmtree(blobs.folder)
    away.rename(blobs.folder)


def test_what_is_put_is_read(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "objects")
    sha256 = blobs.put(b"object")
    assert blobs.find(sha256).read_bytes() == b"object"
    assert blobs.find(sha256) == blobs.path(sha256)
    message = blobs.put(b"{}", ".json")
    assert blobs.read(message, ".json") == b"{}"


def test_a_notification_of_an_earlier_version_is_found(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "objects")
    assert blobs.read(blobs.put(b"{}"), ".json") == b"{}"


def test_a_store_keeps_its_name(tmp_path: Path) -> None:
    first = Blobs(tmp_path / "objects")
    assert Blobs(tmp_path / "objects").store == first.store
    assert Blobs(tmp_path / "other").store != first.store


def test_a_store_of_an_earlier_version_gets_a_mark(tmp_path: Path) -> None:
    """So does one that was copied by `cp -r objects/*`."""
    sha256 = Blobs(tmp_path / "objects").put(b"object")
    (tmp_path / "objects" / MARK).unlink()
    blobs = Blobs(tmp_path / "objects", established=True)
    assert blobs.find(sha256).read_bytes() == b"object"
    assert (tmp_path / "objects" / MARK).read_text().strip() == blobs.store


def test_an_unmounted_volume_is_not_taken_for_an_empty_store(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "objects")
    sha256 = blobs.put(b"object")
    away = unmount(blobs)
    later = Blobs(blobs.folder, established=True)
    for act in (later.check_there, later.check_space, lambda: later.put(b"x"), lambda: later.find(sha256)):
        with pytest.raises(OutOfResources, match="is its volume mounted"):
            act()
    assert list(blobs.folder.iterdir()) == [], "nothing is made in its place"
    mount(blobs, away)
    assert later.find(sha256).read_bytes() == b"object"
    later.check_there()
    assert later.store == blobs.store


def test_a_missing_file_and_a_missing_store_are_different_faults(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "objects")
    gone, there = blobs.put(b"gone"), blobs.put(b"there")
    blobs.path(gone).unlink()
    for take in (blobs.read, blobs.find):
        with pytest.raises(BlobMissing, match="the file is missing from the storage folder"):
            take(gone, ".dcm")
    away = unmount(blobs)
    for sha256 in (gone, there):
        with pytest.raises(OutOfResources, match="is its volume mounted"):
            blobs.read(sha256, ".dcm")
    mount(blobs, away)
    assert blobs.read(there, ".dcm") == b"there"


def test_a_file_that_cannot_be_read_is_its_own_fault(tmp_path: Path) -> None:
    """A bad sector must not pause the work on all other images."""
    blobs = Blobs(tmp_path / "objects")
    blobs.path("ab" + "0" * 62).mkdir(parents=True)
    with pytest.raises(BlobMissing, match=r"cannot be read \(Is a directory\)"):
        blobs.find("ab" + "0" * 62)


def test_a_store_that_cannot_be_read_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = Blobs(tmp_path / "objects")
    sha256 = blobs.put(b"object")

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as broken:
        for name in ("open", "read_text"):
            broken.setattr(Path, name, fail)
        with pytest.raises(OutOfResources):
            blobs.find(sha256)


def test_nothing_is_put_in_the_place_of_a_store(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "objects")
    file = SpoolFile(blobs.incoming)
    file.write(b"object")
    unmount(blobs)
    attempts: list[Callable[[], str]] = [lambda: blobs.put(b"object"), lambda: blobs.adopt(file)]
    for put in attempts:
        with pytest.raises(OutOfResources):
            put()
    assert list(blobs.folder.iterdir()) == []
    file.discard()


def test_an_adopted_file_is_young_though_its_bytes_were_there(tmp_path: Path) -> None:
    """Otherwise a sweep might take it just before its row is committed."""
    blobs = Blobs(tmp_path)
    sha256 = blobs.put(b"object")
    blobs.confirm(sha256)
    os.utime(blobs.path(sha256), (0, 0))
    file = SpoolFile(blobs.incoming)
    file.write(b"object")
    assert blobs.adopt(file) == sha256 == hashlib.sha256(b"object").hexdigest()
    assert blobs.path(sha256).stat().st_mtime > 0
    assert not is_confirmed(blobs.path(sha256).stat().st_mode), "nobody was told of this one yet"
    assert blobs.find(sha256).read_bytes() == b"object"


def test_an_adopted_file_is_as_old_as_its_place_here(tmp_path: Path) -> None:
    """It arrived before the file of its row was deleted, and is placed after that: it is not the one that was."""
    blobs = Blobs(tmp_path)
    file = SpoolFile(blobs.incoming)
    file.write(b"object")
    file.flush_to_disk()
    os.utime(file.path, (0, 0))
    before = time.time()
    assert blobs.path(blobs.adopt(file)).stat().st_mtime >= before - 1


def test_a_file_is_whole_with_all_its_bytes(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "objects")
    sha256 = blobs.put(b"object")
    assert blobs.is_whole(sha256, 6)
    assert not blobs.is_whole(sha256, 7)
    assert not blobs.is_whole("0" * 64, 6)
    unmount(blobs)
    with pytest.raises(OutOfResources):
        blobs.is_whole(sha256, 6)
    with pytest.raises(OutOfResources), blobs.turn("1.2.3"):
        pass
    assert list(blobs.folder.iterdir()) == []


def test_one_at_a_time_has_the_turn_of_a_name(tmp_path: Path) -> None:
    blobs, other = Blobs(tmp_path), Blobs(tmp_path)
    finished = threading.Event()

    def follow() -> None:
        with other.turn("1.2.3"):
            finished.set()

    thread = threading.Thread(target=follow)
    with blobs.turn("1.2.3"):
        with other.turn("1.2.4"):
            pass  # another name's turn comes meanwhile
        thread.start()
        assert not finished.wait(0.2)
    assert finished.wait(60)
    thread.join()


def test_a_confirmed_file_is_read_only(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    sha256 = blobs.put(b"object")
    assert not is_confirmed(blobs.path(sha256).stat().st_mode)
    blobs.confirm(sha256)
    assert is_confirmed(blobs.path(sha256).stat().st_mode)
    blobs.confirm("0" * 64)  # gone meanwhile: that is for those to say who want to read it


def test_who_removes_and_who_places_wait_for_each_other(tmp_path: Path) -> None:
    blobs, other = Blobs(tmp_path), Blobs(tmp_path)
    finished = threading.Event()

    def place() -> None:
        other.put(b"object")
        finished.set()

    thread = threading.Thread(target=place)
    with blobs.alone():
        thread.start()
        assert not finished.wait(0.2)
    assert finished.wait(60)
    thread.join()


def test_many_place_at_the_same_time(tmp_path: Path) -> None:
    blobs, other = Blobs(tmp_path), Blobs(tmp_path)
    with blobs._lock(1):  # LOCK_SH
        assert other.put(b"object")


def test_a_bad_place_on_the_disk_is_one_file_s_fault_and_a_dead_disk_the_store_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = Blobs(tmp_path / "objects")
    bad = OSError(errno.EIO, "Input/output error")
    assert isinstance(blobs.fault(bad), BlobMissing)
    assert "cannot be read (Input/output error)" in str(blobs.fault(bad))
    assert list(blobs.half_made()) == []

    def fail(*_: object) -> None:
        raise bad

    monkeypatch.setattr("dicom_io.durable.write_part", fail)
    fault = blobs.fault(bad)
    assert isinstance(fault, OutOfResources)
    assert "the storage folder cannot be used: Input/output error" in str(fault)


def test_a_full_disk_can_still_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = Blobs(tmp_path / "objects")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("dicom_io.durable.write_part", fail)
    assert isinstance(blobs.fault(OSError(errno.EIO, "Input/output error")), BlobMissing)
