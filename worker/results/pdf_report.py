"""The report as one page of PDF, for people: the picture and the finding in words, and nobody's name."""

from __future__ import annotations

from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING

from reportlab.lib.pagesizes import A4
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

from dicom_io.objects.common import device_uid, plain_text
from dicom_io.objects.jpeg import jpeg
from worker.results import words

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    import numpy as np
    from numpy.typing import NDArray

    from dicom_io.finding import Finding, ModelIdentity

_MARGIN = 50.0  # points, as all lengths here
_QUALITY = 90  # of the picture on the page, as JPEG


@cache
def _fonts() -> tuple[str, str]:
    """Register the typefaces that come with reportlab; what is used of them lies in each file."""
    for name, file in (("cxrd", "Vera.ttf"), ("cxrd-bold", "VeraBd.ttf")):
        pdfmetrics.registerFont(TTFont(name, file))
    return "cxrd", "cxrd-bold"


def report_page(picture: NDArray[np.uint8], *, finding: Finding, identity: ModelIdentity, created: datetime) -> bytes:
    """Return the report as a PDF file of one A4 page; the same arguments make the same bytes.

    Who the patient is stands in the DICOM header around it and not on the page: there it would need a typeface for
    every script in the world, would stay wrong after the archive has corrected a name, and no tool that removes
    identities would find it.

    Parameters
    ----------
    picture
        The picture that the Secondary Capture has, uint8 [H,W,3].
    finding, identity, created
        What is written.
    """
    plain, bold = _fonts()
    buffer = BytesIO()
    canvas = Canvas(buffer, pagesize=A4, invariant=1, pageCompression=1)
    canvas.setTitle("cxrd pneumonia report")
    canvas.setAuthor("cxrd")
    width, height = A4
    canvas.setFont(bold, 16)
    canvas.drawString(_MARGIN, height - 60, "Chest radiograph: pneumonia classifier")
    canvas.setFont(bold, 10)
    canvas.drawString(_MARGIN, height - 80, words.NOTICE)
    rows, columns = picture.shape[:2]
    scale = min((width - 2 * _MARGIN) / columns, 380 / rows)
    top = height - 100 - rows * scale
    image = ImageReader(BytesIO(jpeg(picture, _QUALITY)))
    canvas.drawImage(image, (width - columns * scale) / 2, top, columns * scale, rows * scale)
    line = top - 30
    for name, value in _facts(finding, identity, created):
        canvas.setFont(bold, 9)
        canvas.drawString(_MARGIN, line, name)
        canvas.setFont(plain, 9)
        canvas.drawString(_MARGIN + 140, line, plain_text(value))
        line -= 16
    canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def _facts(finding: Finding, identity: ModelIdentity, created: datetime) -> Iterator[tuple[str, str]]:
    """Yield the answer and what it rests on, and by which model it was given."""
    yield from words.facts(finding)
    yield "Received", words.time(created)
    yield "Model", f"{identity.name} {identity.version}"[:70]
    yield "Weights (SHA-256)", identity.digest[:64]
    yield "Device UID", device_uid(identity)
