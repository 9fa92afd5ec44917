"""What the benchmarks have in common: the shared folder, outside programs, full-size radiographs with fresh UIDs."""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom

from dicom_io.errors import CxrdError
from dicom_io.objects.common import encode
from dicom_io.objects.radiograph import radiograph
from worker.demo.phantom import draw

SHARED = Path(os.environ.get("CXRD_SHARED", Path(__file__).resolve().parents[2] / "shared"))
ROWS, COLUMNS = 2500, 2048
"""The size of a common flat-panel detector's image."""

# All that a header holds before the pixel data lies well within this.
_HEADER = 8192


class Missing(CxrdError):
    """Something that a benchmark needs is not on this machine."""


def shared(*parts: str) -> Path:
    """Return a path below the shared folder.

    Raises
    ------
    Missing
        When it is not there.
    """
    path = SHARED.joinpath(*parts)
    if not path.exists():
        raise Missing(f"{path} is not here: it is not part of the repository; set CXRD_SHARED to its folder")
    return path


def at_least_one(text: str) -> int:
    """Return a number of rounds, images or threads from the command line; a type for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("begins at 1")
    return number


def is_shared(*parts: str) -> bool:
    """Return whether a path below the shared folder is there."""
    return SHARED.joinpath(*parts).exists()


def program(name: str, package: str) -> str:
    """Return the path of an outside program.

    Raises
    ------
    Missing
        When it is not installed.
    """
    path = shutil.which(name) or shutil.which(f"/usr/sbin/{name}")
    if path is None:
        raise Missing(f"the program {name} is not installed (Debian: apt-get install {package})")
    return path


@dataclass(frozen=True)
class Radiographs:
    """DX objects of 2500×2048, 12 bits in 16, uncompressed; `source` says in two words where they come from."""

    files: list[Path]
    source: str


def radiographs(folder: Path, count: int) -> Radiographs:
    """Make so many objects from the shared folder's full-size radiographs; drawn ones where it is absent."""
    folder.mkdir()
    if is_shared("bench", "make_dicoms.py") and is_shared("data", "kermany_full"):
        maker = [sys.executable, str(shared("bench", "make_dicoms.py")), str(shared("data", "kermany_full"))]
        size = ["--count", str(count), "--rows", str(ROWS), "--cols", str(COLUMNS)]
        maker_run = subprocess.run([*maker, "--out", str(folder), *size], capture_output=True, text=True, check=False)
        if maker_run.returncode:
            raise Missing(f"make_dicoms.py failed: {(maker_run.stderr.strip().splitlines() or ['no message'])[-1]}")
        return Radiographs(sorted(folder.glob("*.dcm")), "real radiographs")
    for number in range(count):
        pixels = draw(seed=number, rows=ROWS, cols=COLUMNS, opacity=bool(number % 2)).astype(np.uint16) * 16
        seed = f"benchmark-{secrets.token_hex(8)}"
        (folder / f"{number:04d}.dcm").write_bytes(encode(radiograph(pixels, uid_seed=seed, modality="DX")))
    return Radiographs(sorted(folder.glob("*.dcm")), "drawn radiographs")


def refresh(file: Path) -> str:
    """Give an object new instance, series and study UIDs; return its Study Instance UID.

    The new ones are as long as the old ones, so they are written in place and nothing else of the file moves.
    """
    header = pydicom.dcmread(file, stop_before_pixels=True)
    study = ""
    with file.open("r+b") as handle:
        head = handle.read(_HEADER)
        for keyword in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
            old = str(header[keyword].value)
            # Twenty digits are enough to be unique; the first is no 0, for the number may be a component of its own.
            study = f"{old[:-20]}{secrets.choice('123456789')}{secrets.randbelow(10**19):019d}"
            head = head.replace(old.encode(), study.encode())
        handle.seek(0)
        handle.write(head)
    return study


def run(main: Callable[[], None]) -> None:
    """Run a script; what is missing or wrong is one line on standard error and exit code 2."""
    try:
        main()
    except CxrdError as error:
        sys.stderr.write(f"{Path(sys.argv[0]).name}: {error}\n")
        raise SystemExit(2) from error
