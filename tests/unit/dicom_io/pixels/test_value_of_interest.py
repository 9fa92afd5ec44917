"""Windows and VOI LUTs that leave almost nothing visible count as absent; all others are followed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from dicom_io.objects.radiograph import radiograph
from dicom_io.pixels.render import render
from tests.unit.dicom_io.pixels.test_render import lut
from worker.demo.phantom import draw

CHEST = draw(seed=2, rows=300, cols=260).astype(np.uint16) * 16


def image(**attributes: Any) -> Dataset:
    return radiograph(CHEST, uid_seed="voi", modality="CR", **{"WindowCenter": None, "WindowWidth": None} | attributes)


def window(centre: float, width: float, function: str | None = None) -> dict[str, Any]:
    more = {"VOILUTFunction": function} if function else {}
    return {"WindowCenter": str(centre), "WindowWidth": str(width)} | more


def table(entries: list[int], first: int = 0, bits: int = 12) -> dict[str, Any]:
    return {"VOILUTSequence": [lut(first, bits, entries)]}


HIGH, LOW = int(CHEST.max()), int(CHEST.min())
HIDING: dict[str, dict[str, Any]] = {
    "far above": window(60000, 400),
    "far below": window(-60000, 400),
    "just above": window(HIGH + 300, 400),
    "just below": window(-300, 400),
    "width 1 above": window(HIGH + 1, 1),
    "width 1 below": window(-5, 1),
    "width 1 in the highest": window(HIGH - 1, 1),
    "a linear exact one above": window(HIGH + 10, 2, "LINEAR_EXACT"),
    "a linear exact one below": window(-10, 2, "LINEAR_EXACT"),
    "a sigmoid above": window(HIGH + 2000, 100, "SIGMOID"),
    "a sigmoid below": window(-2000, 100, "SIGMOID"),
    "a sigmoid some widths above": window(HIGH + 900, 600, "SIGMOID"),
    "a sigmoid some widths below": window(-1500, 600, "SIGMOID"),
    "so wide that all is one grey": window(2048, 5_000_000),
    "so wide that all is one grey, exact": window(2048, 5_000_000, "LINEAR_EXACT"),
    "so wide that all is one grey, sigmoid": window(2048, 5_000_000, "SIGMOID"),
    "absurdly far": window(1e15, 10),
    "absurdly wide": window(0, 1e15),
    "a table of zeros": table([0] * 4096),
    "a table of one value": table([1234] * 4096),
    "a table of one entry": table([4095]),
    "a table far above": table(list(range(4096)), first=9000),
    "a table far below": table([*range(4095), 4095], first=-9000),
    "a table that is white but for its first": table([0] + [4095] * 4095),
    "a table that is black but for its last": table([0] * 4095 + [4095]),
    "a table of two entries": table([0, 4095], first=9000),
    "a table of nearly black but for its last": table([1] * 4095 + [4095]),
    "a table of nearly white but for its first": table([0] + [4090] * 4094 + [4095]),
    "a table of two greys": table([2000 + k % 2 for k in range(4095)] + [2001], bits=16) | {},
}
FOLLOWED: dict[str, dict[str, Any]] = {
    "all": window(2048, 4096),
    "narrow": window(2000, 200),
    "width 1": window(2000, 1),
    "width 2": window(2000, 2),
    "a part of the dark": window(300, 600),
    "a part of the bright": window(3000, 400),
    "wide": window(2048, 65536),
    "a sigmoid": window(2048, 1000, "SIGMOID"),
    "a table": table([int(4095 * (k / 4095) ** 2) for k in range(4096)]),
    "an inverted table": table(list(range(4095, -1, -1))),
    "a table of two steps": table([0] * 2000 + [4095] * 2096),
}


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("name", HIDING)
def test_what_hides_the_image_counts_as_absent(name: str, photometric: str) -> None:
    shown = render(image(PhotometricInterpretation=photometric, **HIDING[name]))
    expected = render(image(PhotometricInterpretation=photometric))
    assert np.array_equal(shown.values, expected.values)
    assert shown.window == expected.window
    assert shown.window is not None
    assert shown.blank == ""


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("name", FOLLOWED)
def test_all_else_is_followed(name: str, photometric: str) -> None:
    shown = render(image(PhotometricInterpretation=photometric, **FOLLOWED[name]))
    assert shown.window is None
    assert not np.array_equal(shown.values, render(image(PhotometricInterpretation=photometric)).values)


@pytest.mark.parametrize("name", HIDING)
def test_what_hides_it_behind_a_slope_and_padding_does_too(name: str) -> None:
    more = {"RescaleSlope": "-1", "RescaleIntercept": str(LOW + HIGH), "PixelPaddingValue": 0}
    assert render(image(**HIDING[name], **more)).window == pytest.approx(render(image(**more)).window)


@pytest.mark.parametrize(
    ("share", "followed"),
    [(0.002, False), (0.004, False), (0.02, True), (0.05, True)],
)
@pytest.mark.parametrize("inverted", [False, True])
def test_the_limit_is_a_hundredth_of_the_pixels(share: float, followed: bool, inverted: bool) -> None:
    values = np.sort(CHEST.astype(float).ravel() + np.linspace(0, 0.5, CHEST.size))
    at = float(values[round((share if inverted else 1 - share) * values.size)])
    centre = at - 100 if inverted else at + 100  # the window ends where so many pixels are left
    shown = render(image(**window(centre, 200, "LINEAR_EXACT")))
    assert (shown.window is None) == followed


@pytest.mark.parametrize(
    ("centre", "width"),
    [(b"\\2048 ", b"\\4096 "), (b"\\\\2048", b"\\\\4096"), (b" \\2048", b"10\\4096 "), (b"3\\2048", b"\\4096")],
)
def test_the_first_window_that_is_whole_counts(centre: bytes, width: bytes) -> None:
    dataset = image()
    for tag, value in ((0x00281050, centre), (0x00281051, width)):
        dataset[tag] = RawDataElement(Tag(tag), "DS", len(value), value, 0, False, True)
    assert np.array_equal(render(dataset).values, render(image(**window(2048, 4096))).values)


@pytest.mark.parametrize("value", [b"2048,5", b"wide", b"nan", b"inf\\2048", b"\\", b""])
@pytest.mark.filterwarnings("ignore")
def test_a_window_that_is_no_number_counts_as_absent(value: bytes) -> None:
    dataset = image(**window(2048, 4096))
    dataset[0x00281050] = RawDataElement(Tag(0x00281050), "DS", len(value), value, 0, False, True)
    assert np.array_equal(render(dataset).values, render(image()).values)
