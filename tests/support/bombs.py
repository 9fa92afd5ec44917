"""Objects that are small as files and large in memory, or long to read; drawn for the tests."""

from __future__ import annotations

import resource
import struct
import subprocess
import sys
import zlib
from io import BytesIO
from pathlib import Path

from pydicom import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from tests.support.peers import chest


def begin(syntax: str, dataset: Dataset | None = None) -> bytes:
    """Return preamble, File Meta Information and, not deflated, the elements of a radiograph before its pixels."""
    dataset = dataset if dataset is not None else chest("a bomb")
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    buffer = BytesIO()
    buffer.write(bytes(128) + b"DICM")
    write_file_meta_info(buffer, dataset.file_meta, enforce_standard=False)  # type: ignore[arg-type]
    return buffer.getvalue()


def header_bytes(dataset: Dataset | None = None) -> bytes:
    """Return the elements of a radiograph before its pixel data, explicit VR little endian."""
    dataset = dataset if dataset is not None else chest("a bomb")
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    data = buffer.getvalue()
    start = 144 + int(struct.unpack_from("<I", data, 140)[0])  # behind the File Meta Information, as its length says
    return data[start : data.index(b"\xe0\x7f\x10\x00O")]


def deflated(path: Path, megabytes: int, *, where: str = "pixels", name: str = "a bomb") -> Path:
    """Write a deflated radiograph with so many megabytes of zeros as its pixel data, or in a private element."""
    engine = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    tag = b"\xe0\x7f\x10\x00OW" if where == "pixels" else b"\xdf\x7f\x10\x10OB"
    with path.open("wb") as file:
        file.write(begin(DeflatedExplicitVRLittleEndian, chest(name)))
        size = megabytes * 1_000_000
        file.write(engine.compress(header_bytes(chest(name)) + tag + struct.pack("<HI", 0, size)))
        piece = bytes(1_000_000)
        for _ in range(megabytes):
            file.write(engine.compress(piece))
        file.write(engine.flush())
    return path


def many_elements(path: Path, count: int, form: str, *, name: str = "a bomb") -> Path:
    """Write an object with so many empty elements: beside one another, or as items of a sequence.

    `form` is ``flat``, ``implicit``, ``undefined`` (a sequence without a length) or ``defined``.
    """
    syntax = ImplicitVRLittleEndian if form == "implicit" else ExplicitVRLittleEndian
    data = begin(syntax, chest(name))
    if form == "implicit":
        data += struct.pack("<2HL", 8, 0x16, 0) + b"".join(
            struct.pack("<2HL", 0x0009 + 2 * (each >> 16), each & 0xFFFF, 0) for each in range(0x1000, 0x1000 + count)
        )
    elif form == "flat":
        data += header_bytes(chest(name)) + b"".join(
            struct.pack("<2H2sH", 0x6001 + 2 * (each >> 16), each & 0xFFFF, b"LO", 0) for each in range(0x1000, count)
        )
    else:
        items = struct.pack("<2HL", 0xFFFE, 0xE000, 0) * count
        length = 0xFFFFFFFF if form == "undefined" else len(items)
        end = struct.pack("<2HL", 0xFFFE, 0xE0DD, 0) if form == "undefined" else b""
        data += header_bytes(chest(name)) + struct.pack("<2H2sHL", 0x5400, 0x0100, b"SQ", 0, length) + items + end
    path.write_bytes(data)
    return path


def nested(path: Path, depth: int, *, defined: bool, name: str = "a bomb") -> Path:
    """Write an object whose sequences lie in one another."""
    inner = b""
    if defined:
        for _ in range(depth):
            item = struct.pack("<2HL", 0xFFFE, 0xE000, len(inner)) + inner
            inner = struct.pack("<2H2sHL", 0x0040, 0x0275, b"SQ", 0, len(item)) + item
    else:
        open_ = struct.pack("<2H2sHL", 0x0040, 0x0275, b"SQ", 0, 0xFFFFFFFF)
        open_ += struct.pack("<2HL", 0xFFFE, 0xE000, 0xFFFFFFFF)
        close = struct.pack("<2HL", 0xFFFE, 0xE00D, 0) + struct.pack("<2HL", 0xFFFE, 0xE0DD, 0)
        inner = open_ * depth + close * depth
    path.write_bytes(begin(ExplicitVRLittleEndian, chest(name)) + header_bytes(chest(name)) + inner)
    return path


def rle(megabytes: int, *, name: str = "a bomb") -> Dataset:
    """Return a radiograph whose two RLE segments come to so many megabytes, whatever its size says."""
    run = b"\x81\x00"  # 128 times the same byte
    segment = run * (megabytes * 1_000_000 // 2 // 128)
    frame = struct.pack("<16L", 2, 64, 64 + len(segment), *[0] * 13) + segment * 2
    dataset = chest(name)
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset["PixelData"].value = encapsulate([frame])
    return dataset


def enlarged(side: int, *, name: str = "a bomb") -> Dataset:
    """Return a small radiograph as JPEG 2000 whose header and code stream say that it has so many pixels to a side."""
    dataset = chest(name)
    rows, columns = dataset.Rows, dataset.Columns
    dataset.compress(JPEG2000Lossless, generate_instance_uid=False)
    size = struct.pack(">2L", columns, rows)
    stream = get_frame(dataset.PixelData, 0, number_of_frames=1)
    assert size in stream  # in SIZ: the image's own, and that of its tiles
    dataset["PixelData"].value = encapsulate([stream.replace(size, struct.pack(">2L", side, side))])
    dataset.Rows = dataset.Columns = side
    return dataset


_PROGRAM = """
import resource, sys, time
{code}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begin = time.process_time()
try:
    run()
    print('done')
except Exception as error:
    print(f'{{type(error).__name__}}: {{error}}')
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
print(time.process_time() - begin)
"""


def measured(code: str, *arguments: object, limit_mb: int = 4000) -> tuple[str, float, float]:
    """Run Python code that defines `run` in a process of its own.

    Returns
    -------
    str, float, float
        What it printed or raised; by how many megabytes its memory grew at most; the processor's seconds that it took.
    """

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit_mb << 20, limit_mb << 20))

    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(code=code), *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=bound,
    )
    assert done.returncode == 0, done.stderr
    *lines, kilobytes, seconds = done.stdout.strip().splitlines()
    return "\n".join(lines), float(kilobytes) / 1000, float(seconds)
