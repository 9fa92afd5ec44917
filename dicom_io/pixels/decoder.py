"""The program that decodes compressed frames, one after the other, in a process of its own and within its limits.

A code stream comes from a stranger. It may end the decoder's process, keep it busy, or need any amount of memory: here
that costs this process and nothing else. `dicom_io.pixels.decoders` starts it, and talks to it by `message`.
"""

import contextlib
import json
import os
import re
import resource
import struct
import sys
from pathlib import Path
from typing import Any, BinaryIO

_LENGTH = struct.Struct("<I")
_MEGABYTE = 1_000_000
DAMAGED = "damaged"
"""The error of a code stream that a decoder made a picture of, and complained about."""
ENDS_EARLY = "ends early"
"""The error of a frame whose data end before its last pixel."""
# What libjpeg says of data that it cannot follow, before it goes on with whatever comes (jerror.h, JWRN_...).
_COMPLAINT = re.compile(rb"Corrupt JPEG data: (.*)|Premature end of JPEG file")
# A byte or two between the last pixel and the end of the image are some writers' padding.
_PADDING = re.compile(rb"[12] extraneous bytes before marker 0xd9\s*")


def message(head: dict[str, Any], data: "bytes | memoryview" = b"") -> "list[bytes | memoryview]":
    """Return a message in its parts: the length of its head, the head as JSON with the size of its data, the data."""
    text = json.dumps(head | {"size": len(data)}).encode()
    return [_LENGTH.pack(len(text)) + text, data]


def receive(stream: BinaryIO) -> "tuple[dict[str, Any], bytes] | None":
    """Read a message; None where there is none any more."""
    start = stream.read(_LENGTH.size)
    if len(start) < _LENGTH.size:
        return None
    head = json.loads(stream.read(_LENGTH.unpack(start)[0]))
    data = stream.read(head["size"])
    return (head, data) if len(data) == head["size"] else None


def _limit(memory_mb: int) -> None:
    """Bound what this process may take, beyond what it has taken by now: memory, files and core dumps."""
    size = _data_size() + memory_mb * _MEGABYTE
    # Private memory alone counts: libraries and reserved addresses do not.
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _data_size() -> int:
    """Return the bytes of private memory that this process has; of other systems than Linux, a guess."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmData:"))
    except (OSError, StopIteration, ValueError):
        return 200 * _MEGABYTE


def _bound_time(seconds: float) -> None:
    """Bound the processor's time for the next frame: SIGXCPU ends this process then."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    until = int(usage.ru_utime + usage.ru_stime + seconds) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (until, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def _by_gdcm(frame: bytes, head: dict[str, Any]) -> "bytes | memoryview":
    import gdcm  # noqa: PLC0415  (the program needs it, the module does not)

    rows, columns, allocated, bits = (head[key] for key in ("rows", "columns", "allocated", "bits"))
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(frame)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    grey = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(head["syntax"])))
    image.SetPixelFormat(gdcm.PixelFormat(1, allocated, bits, bits - 1, 0))
    size = rows * columns * allocated // 8
    cells: bytes = image.GetBuffer().encode("utf-8", "surrogateescape")  # GDCM hands over bytes as a str
    if len(cells) < size:
        raise ValueError("too few cells")
    return memoryview(cells)[:size]


class _EndsEarly(ValueError):
    """A frame's data end before its last pixel."""


def _rle(frame: bytes, head: dict[str, Any]) -> "tuple[bytes | memoryview, dict[str, Any]]":
    """Decode RLE (PS3.5 annex G), no further than to the last pixel: pydicom goes on as long as there are runs."""
    import numpy as np  # noqa: PLC0415

    options = head["options"]
    shape, size = (options["rows"], options["columns"]), options["bits_allocated"] // 8
    count, *starts = struct.unpack_from("<16L", frame)
    if count != size or min(starts[:count]) < 64:
        raise ValueError("not the segments of one sample")
    if max(starts[:count]) > len(frame):
        raise _EndsEarly
    cells = np.empty((*shape, size), np.uint8)
    for number, (start, end) in enumerate(zip(starts[:count], [*starts[1:count], len(frame)], strict=True)):
        plane = np.frombuffer(_rle_segment(frame[start:end], shape[0] * shape[1]), np.uint8)
        cells[..., size - 1 - number] = plane.reshape(shape)  # the most significant byte comes first
    return cells.data.cast("B"), {"shape": shape, "kind": f"<u{size}"}


def _rle_segment(segment: bytes, size: int) -> bytes:
    out, at = bytearray(), 0
    while len(out) < size and at < len(segment):
        step = segment[at]
        if step < 128:
            out += segment[at + 1 : at + 2 + step]
            at += 2 + step
        elif step > 128:
            out += segment[at + 1 : at + 2] * (257 - step)
            at += 2
        else:
            at += 1
    if len(out) < size:
        raise _EndsEarly
    return bytes(out[:size])


def _by_pydicom(frame: bytes, head: dict[str, Any]) -> "tuple[bytes | memoryview, dict[str, Any]]":
    import numpy as np  # noqa: PLC0415
    from pydicom.encaps import encapsulate  # noqa: PLC0415
    from pydicom.pixels.decoders.base import get_decoder  # noqa: PLC0415
    from pydicom.uid import UID  # noqa: PLC0415

    decoder = get_decoder(UID(head["syntax"]))
    data = encapsulate([frame], has_bot=False)
    array, _ = decoder.as_array(data, raw=True, index=0, decoding_plugin=head["plugin"], **head["options"])
    array = np.ascontiguousarray(array)
    return array.data.cast("B"), {"shape": array.shape, "kind": array.dtype.str}


def is_complaint(lines: bytes) -> bool:
    """Tell whether what a decoder printed means that pixels are wrong."""
    return any(each[1] is None or not _PADDING.fullmatch(each[1]) for each in _COMPLAINT.finditer(lines))


def _drain(printed: int) -> bytes:
    """Return what has been printed since the last time; what came after the first 64 KiB is lost."""
    pieces = []
    with contextlib.suppress(BlockingIOError):
        while piece := os.read(printed, 1 << 16):
            pieces.append(piece)
    return b"".join(pieces)


def _decoded(frame: bytes, head: dict[str, Any], printed: int) -> "list[bytes | memoryview]":
    parts = _attempted(frame, head)
    return message({"error": DAMAGED}) if is_complaint(_drain(printed)) else parts


def _attempted(frame: bytes, head: dict[str, Any]) -> "list[bytes | memoryview]":
    try:
        if head["plugin"] == "gdcm":
            return message({"error": ""}, _by_gdcm(frame, head))
        cells, facts = (_rle if head["plugin"] == "rle" else _by_pydicom)(frame, head)
        return message({"error": "", **facts}, cells)
    except _EndsEarly:
        return message({"error": ENDS_EARLY})
    except Exception as error:  # noqa: BLE001 - foreign decoders raise whatever they like
        return message({"error": type(error).__name__})


def main(memory_mb: int) -> None:
    """Serve until the end of standard input."""
    import pydicom.pixels.decoders  # noqa: PLC0415, F401  (loaded before the limits count)

    answers = os.dup(1)
    # What a library prints does not come in the middle of an answer, and a full pipe does not hold it up.
    printed, end = os.pipe()
    os.set_blocking(printed, False)
    os.set_blocking(end, False)
    os.dup2(end, 1)
    os.dup2(end, 2)
    _limit(memory_mb)
    with os.fdopen(os.dup(0), "rb") as stream:
        while (request := receive(stream)) is not None:
            head, frame = request
            _bound_time(head["seconds"])
            for part in _decoded(frame, head, printed):
                view = memoryview(part).cast("B") if len(part) else memoryview(b"")
                while len(view):
                    view = view[os.write(answers, view) :]
            del head, frame, request


if __name__ == "__main__":
    main(int(sys.argv[1]))
