"""Decodes JPEG extended, JPEG lossless and JPEG-LS with GDCM, in a process of its own.

GDCM is what reads the first two under a free licence, but one wrong byte can end its process (SIGSEGV, SIGABRT): a bad
image would take the daemon with it, and again after each restart. For JPEG-LS there is CharLS by itself as well, which
reads on for minutes where the data is cut off. Run as a program, this file reads one code stream on standard input and
writes its cells, in the machine's byte order, to standard output.
"""

import subprocess
import sys

# Seconds. The largest image allowed takes about five.
TIMEOUT = 60.0


class DecoderFailed(Exception):
    """The process ended without a picture."""


def decode(frame: bytes, *, syntax: str, rows: int, columns: int, allocated: int, bits: int) -> bytes:
    """Decode one grey JPEG or JPEG-LS code stream.

    Parameters
    ----------
    frame
        The code stream; its header has been checked against the other arguments.
    syntax
        UID of the transfer syntax that GDCM is to take it for.
    rows, columns, allocated, bits
        Size in pixels, bits of a cell (8 or 16) and bits of a sample.

    Returns
    -------
    bytes
        The cells, row by row, in the machine's byte order.

    Raises
    ------
    DecoderFailed
        The code stream is damaged, or decoding took too long.
    """
    command = [sys.executable, "-I", __file__, syntax, *map(str, (rows, columns, allocated, bits))]
    try:
        done = subprocess.run(command, input=frame, capture_output=True, timeout=TIMEOUT, check=False)  # noqa: S603
    except subprocess.TimeoutExpired as error:
        raise DecoderFailed("it took too long") from error
    if done.returncode != 0 or len(done.stdout) < rows * columns * allocated // 8:
        raise DecoderFailed("the code stream is damaged")
    return done.stdout[: rows * columns * allocated // 8]


def _main(syntax: str, rows: int, columns: int, allocated: int, bits: int) -> None:
    """Decode standard input to standard output."""
    import gdcm  # noqa: PLC0415  (the program needs it, the module does not)

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(sys.stdin.buffer.read())
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
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    image.SetPixelFormat(gdcm.PixelFormat(1, allocated, bits, bits - 1, 0))
    # GDCM hands bytes over as a str.
    sys.stdout.buffer.write(image.GetBuffer().encode("utf-8", "surrogateescape"))


if __name__ == "__main__":
    _main(sys.argv[1], *map(int, sys.argv[2:]))
