"""Encodes JPEG lossless and JPEG-LS with GDCM, in a process of its own.

GDCM does not always find its way out of its own process. Run as a program, this file reads the samples of one picture
on standard input and writes its code stream to standard output.
"""

import os
import subprocess
import sys
from typing import Any

# Seconds. The largest image allowed takes about five.
TIMEOUT = 60.0


class EncoderFailed(Exception):
    """The process ended without a code stream."""


def encode_rgb(frame: bytes, *, syntax: str, rows: int, columns: int) -> bytes:
    """Encode one RGB picture as it is, without a colour transformation.

    Parameters
    ----------
    frame
        Its samples, uint8 [rows, columns, 3].
    syntax
        UID of JPEG Lossless with first-order prediction (process 14, selection value 1), or of JPEG-LS Lossless.
    rows, columns
        Size in pixels.

    Raises
    ------
    EncoderFailed
        GDCM does not do it, or it took too long.
    """
    try:
        done = _run(frame, syntax, rows, columns)
    except subprocess.TimeoutExpired as error:
        raise EncoderFailed("it took too long") from error
    if done.returncode != 0 or not done.stdout.startswith(b"\xff\xd8"):
        raise EncoderFailed("GDCM does not encode it")
    return done.stdout


def _run(data: bytes, *arguments: object) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-I", __file__, *map(str, arguments)]
    return subprocess.run(command, input=data, capture_output=True, timeout=TIMEOUT, check=False)  # noqa: S603 - us


def _encode(syntax: str, rows: int, columns: int) -> None:
    """Encode the RGB samples on standard input to standard output."""
    import gdcm  # noqa: PLC0415  (the program needs it, the module does not)

    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetByteStringValue(sys.stdin.buffer.read())
    image = _image(element, rows, columns, "RGB", gdcm.TransferSyntax.ExplicitVRLittleEndian)
    image.SetPixelFormat(gdcm.PixelFormat(3, 8, 8, 7, 0))
    image.SetPlanarConfiguration(0)
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    change.SetInput(image)
    if not change.Change():
        sys.exit(1)
    # Each is held by a name: GDCM ends the process where one goes before what it belongs to.
    output = change.GetOutput()
    encoded = output.GetDataElement()
    fragments = encoded.GetSequenceOfFragments()
    for each in range(fragments.GetNumberOfFragments()):
        fragment = fragments.GetFragment(each)
        _write(fragment.GetByteValue().GetBuffer())
    sys.stdout.flush()
    os._exit(0)  # nor does it always find its own way out


def _image(element: Any, rows: int, columns: int, colour: str, syntax: int) -> Any:
    """Return GDCM's image of one frame, still without its pixel format."""
    import gdcm  # noqa: PLC0415  (the program needs it, the module does not)

    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.GetPIType(colour)))
    image.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    return image


def _write(text: str) -> None:
    """Write what GDCM hands over: bytes as a str."""
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))


if __name__ == "__main__":
    _encode(sys.argv[1], *map(int, sys.argv[2:]))
