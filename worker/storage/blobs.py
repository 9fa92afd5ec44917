"""The store of received and produced objects: files named by the SHA-256 of their bytes, durable once there.

A received file becomes read-only when its row is committed (`Blobs.confirm`). A file without a row that may still be
written was never acknowledged to anybody, and may be removed (`worker.storage.orphans`).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dicom_io import durable
from dicom_io.errors import OutOfResources, Retryable
from dicom_io.fail_points import reached
from dicom_io.network.spool_file import SpoolFile

MARK = ".store"
"""The file that marks the folder, and holds the store's name."""
DICOM = ".dcm"
"""Suffix of received and produced objects; notifications have their own."""


_FOLDER = re.compile(r"[0-9a-f]{2}")
_WRITE = 0o222


class BlobMissing(Retryable):
    """A file that should be in the store is not, or cannot be read, although the store is there."""


class Blobs:
    """A folder of immutable files.

    A name is never made from what a peer sent, only from the digest of the bytes; the same bytes are stored once. A
    file in the folder marks it as this store and no other: where it is missing, so is the volume.

    Parameters
    ----------
    folder
        Root of the store, made if absent.
    min_free
        Free bytes that must remain on its file system; with less, nothing is taken in.
    established
        Whether the ledger knows of objects: then a folder without the mark is what lies under a volume that is not
        mounted, and is left as it is.
    """

    def __init__(self, folder: Path, min_free: int = 0, *, established: bool = False) -> None:
        self.folder = folder
        self.incoming = folder / "incoming"
        self._making = folder / "making"
        self._min_free = min_free
        self.store = ""
        """What tells this store from others; empty where the volume is not there."""
        if not established or self._mark.exists() or any(folder.glob("[0-9a-f][0-9a-f]")):
            self.incoming.mkdir(parents=True, exist_ok=True)
            self._making.mkdir(exist_ok=True)
            durable.write_if_absent(self._mark, f"{uuid.uuid4().hex}\n".encode())
            self.store = self._mark.read_text().strip()

    @property
    def _mark(self) -> Path:
        return self.folder / MARK

    def check_there(self) -> None:
        """Raise `OutOfResources` where the store's volume is not mounted."""
        try:
            self.store = self._mark.read_text().strip()
        except OSError as error:
            reason = f"the storage folder holds no {self.folder.name}/{MARK}: is its volume mounted?"
            raise OutOfResources(reason) from error

    def find(self, sha256: str, suffix: str = DICOM) -> Path:
        """Return where the file with this digest lies.

        Raises
        ------
        BlobMissing
            It is gone, or cannot be read.
        OutOfResources
            The whole store is.
        """
        path = self.path(sha256, suffix)
        try:
            path.open("rb").close()
        except OSError as error:
            raise self.fault(error) from error
        return path

    def is_whole(self, sha256: str, size: int) -> bool:
        """Tell whether the file of an object is there, with all its bytes. Raises `OutOfResources` as `find` does."""
        try:
            return self.path(sha256).stat().st_size == size
        except FileNotFoundError:
            self.check_there()  # the volume may be gone since
            return False

    def fault(self, error: OSError) -> Retryable:
        """Return what an error with a file of the store means: the fault of this file, or of the whole store.

        A disk with a bad place holds up nothing but what lies there; one that answers nothing more is waited for.
        """
        try:
            self.check_there()
            if not isinstance(error, FileNotFoundError):
                durable.write_part(probe := self._making / f"{uuid.uuid4().hex}.part", b"cxrd")
                probe.unlink()
        except OutOfResources as worse:
            return worse
        except OSError as worse:
            if worse.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):  # these can still be read
                return OutOfResources(f"the storage folder cannot be used: {worse.strerror}")
        gone = isinstance(error, FileNotFoundError)
        what = "is missing from the storage folder" if gone else f"cannot be read ({error.strerror})"
        return BlobMissing(f"the file {what}")

    def every(self, sha256: str) -> list[Path]:
        """Return the files with this digest, whatever their suffix."""
        return sorted((self.folder / sha256[:2]).glob(f"{sha256[2:]}.*"))

    def path(self, sha256: str, suffix: str = DICOM) -> Path:
        """Return where the file with this digest lies, or would lie."""
        return self.folder / sha256[:2] / f"{sha256[2:]}{suffix}"

    def read(self, sha256: str, suffix: str) -> bytes:
        """Return the bytes of a file. A notification that waited through an upgrade still has the suffix of DICOM."""
        path = self.path(sha256, suffix)
        return (path if path.exists() else self.find(sha256)).read_bytes()

    def check_space(self, needed: int = 0) -> None:
        """Raise `OutOfResources` where `needed` bytes would leave too little free space."""
        if self.free_bytes() - needed < self._min_free:
            raise OutOfResources(f"less than {self._min_free // 1_000_000} MB would be free in the storage folder")

    def free_bytes(self) -> int:
        """Return the free bytes of the store's file system. Raises `OutOfResources` where it is not there."""
        self.check_there()
        try:
            return shutil.disk_usage(self.folder).free
        except OSError as error:
            raise OutOfResources(f"{self.folder}: {error.strerror}") from error

    def adopt(self, file: SpoolFile) -> str:
        """Make an arrived file durable and part of the store; return its SHA-256.

        A file of the same bytes that is there already is replaced, and so is as young as this one.

        Raises
        ------
        OutOfResources
            When any of its bytes could not be written.
        """
        try:
            file.seal()
            # As old as its place here, or it would be taken for the file of a row that was deleted since it arrived.
            os.utime(file.path)
            self._place(file.path, self.path(file.sha256))
            file.close()  # not before: as long as it is open, it is nobody's leftover
        except OSError as error:
            raise OutOfResources(f"cannot write to the storage folder: {error.strerror}") from error
        return file.sha256

    def put(self, data: bytes, suffix: str = DICOM) -> str:
        """Store bytes durably; return their SHA-256. Raises as `adopt` does."""
        sha256 = hashlib.sha256(data).hexdigest()
        self.check_there()
        part = self._making / f"{uuid.uuid4().hex}.part"  # not where the receiver tidies up when it starts
        try:
            durable.write_part(part, data)
            try:
                self._place(part, self.path(sha256, suffix))
            finally:
                part.unlink(missing_ok=True)
        except OSError as error:
            raise OutOfResources(f"cannot write to the storage folder: {error.strerror}") from error
        return sha256

    def confirm(self, sha256: str, suffix: str = DICOM) -> None:
        """Mark a file as owned by a row that is committed. Where this is lost in a crash, the row still owns it."""
        with suppress(OSError):
            confirm(self.path(sha256, suffix))

    def folders(self) -> Iterator[Path]:
        """Yield the folders that files lie in, by their names: the first two digits of the digests."""
        yield from sorted(each for each in self.folder.iterdir() if _FOLDER.fullmatch(each.name))

    def half_made(self) -> Iterator[Path]:
        """Yield the files that are still being received or made, and those that dead processes left."""
        for folder in (self.incoming, self._making):
            yield from sorted(folder.rglob("*.part"))

    def remove(self, path: Path) -> int:
        """Remove a file that nothing owns; return how many bytes that were, 0 where it is gone already.

        Raises
        ------
        OutOfResources
            It cannot be removed.
        """
        try:
            size = path.stat().st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        except OSError as error:
            raise OutOfResources(f"{path}: cannot be removed ({error.strerror})") from error
        return size

    @contextmanager
    def turn(self, name: str) -> Iterator[None]:
        """Let a block run for one object of this name at a time, in whichever process of this store.

        Raises
        ------
        OutOfResources
            The store is not there.
        """
        self.check_there()
        turns = self.folder / "turns"
        turns.mkdir(exist_ok=True)
        with (turns / hashlib.sha256(name.encode()).hexdigest()[:2]).open("ab") as file:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep every process from placing a file within a block: what is looked at there stays as it is."""
        with self._lock(fcntl.LOCK_EX):
            yield

    def _place(self, part: Path, target: Path) -> None:
        with self._lock(fcntl.LOCK_SH):
            if not target.parent.is_dir():
                target.parent.mkdir(exist_ok=True)
                durable.sync(self.folder)
            reached("written not renamed")
            part.replace(target)
        durable.sync(target.parent)

    @contextmanager
    def _lock(self, operation: int) -> Iterator[None]:
        """Hold the lock between those who place files and one who removes them (flock on the mark)."""
        with self._mark.open("rb") as mark:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(mark, operation)
            yield


def confirm(path: Path) -> None:
    """Make a file read-only."""
    mode = path.stat().st_mode
    if mode & _WRITE:
        path.chmod(mode & ~_WRITE)


def is_confirmed(mode: int) -> bool:
    """Tell from a file's mode whether it was confirmed."""
    return not mode & _WRITE
