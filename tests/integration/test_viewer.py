"""Seen by a person: a study in the OHIF viewer, from a real Orthanc's DICOMweb, in a real browser.

Screenshots stay in the folder that CXRD_TEST_ARTIFACTS names (default: build/screenshots).
"""

from __future__ import annotations

import base64
import importlib
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset

from dicom_io.finding import bounded
from dicom_io.objects.common import encode
from tests.support.orthanc import Orthanc, free_port
from tests.support.peers import wait_for
from tests.support.tools import tool
from tests.unit.worker.results.test_result_set import coded, tree
from worker.demo.demo import drawn_radiographs
from worker.demo.viewer import ViewerServer
from worker.engines.daemon import Daemon
from worker.ledger.queries import Filter, findings

PROJECT = Path(__file__).parents[2]
FLAGS = [
    "--no-sandbox",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 60_000.0  # milliseconds: a software renderer on two busy cores


def viewer_files() -> Path:
    """Return the viewer's built files; skip where they are absent, fail in CI."""
    named = os.environ.get("CXRD_TEST_OHIF")
    made = (PROJECT / ".viewer").glob("*/dist")
    found = [Path(named)] if named else sorted(made, key=lambda path: path.stat().st_mtime)
    if found and (found[-1] / "index.html").is_file():
        return found[-1]
    reason = "no OHIF viewer (`make viewer` fetches it, or CXRD_TEST_OHIF names its dist folder)"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Any]:
    """A page of a headless Chromium that keeps what its console said of errors."""
    chromium = tool("chromium")
    if not os.environ.get("CI"):
        pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    playwright = importlib.import_module("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1500, "height": 900})
        page.set_default_timeout(PATIENCE)
        yield page
        browser.close()


def shot(page: Any, name: str) -> None:
    """Keep a screenshot as a build artefact."""
    folder = Path(os.environ.get("CXRD_TEST_ARTIFACTS", PROJECT / "build" / "screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png")


def coloured(page: Any) -> float:
    """Return the part of the viewport's pixels that are of a warm colour: the viewer itself is black, grey and blue."""
    middle = {"x": 300, "y": 100, "width": 1150, "height": 780}  # between the list and the tools
    pixels = np.asarray(Image.open(io.BytesIO(page.screenshot(clip=middle))).convert("RGB")).astype(int)
    return float((pixels[..., 0] - pixels[..., 2] > 60).mean())


def open_series(page: Any, study: str, series: str, seen: Callable[[], bool]) -> None:
    """Open a study with this series in the viewport.

    By the address, not by a double click in the list: the viewer's answer to a click on a report is to draw nothing,
    more often than not, where the machine is busy.
    """
    page.goto(f"{study}&initialSeriesInstanceUID={series}")
    wait_for(seen, PATIENCE / 1000)


def canvas(page: Any) -> Image.Image:
    """Return what the viewer has drawn into its viewport, without the words and lines over it."""
    url = page.locator("canvas.cornerstone-canvas").first.evaluate("canvas => canvas.toDataURL('image/png')")
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")


def likeness(shown: Image.Image, picture: Image.Image) -> float:
    """Return the correlation of a picture with what is shown in its place: fitted into the middle of the viewport."""
    scale = min(shown.width / picture.width, shown.height / picture.height)
    width, height = picture.width * scale, picture.height * scale
    left, top = (shown.width - width) / 2, (shown.height - height) / 2
    part = shown.resize(picture.size, box=(left, top, left + width, top + height))
    if np.asarray(part).std() < 1:  # nothing is drawn yet
        return 0.0
    pixels = np.stack([np.asarray(each, np.float64).ravel() for each in (part, picture)])
    return float(np.asarray(np.corrcoef(pixels))[0, 1])


def rendered(orthanc: Orthanc, modality: str) -> Image.Image:
    """Return Orthanc's own rendering of the only image of this modality."""
    (found,) = [
        each
        for each in orthanc.get("/instances")
        if orthanc.get(f"/instances/{each}/simplified-tags")["Modality"] == modality
    ]
    return Image.open(io.BytesIO(orthanc.raw(f"/instances/{found}/rendered"))).convert("RGB")


def outlines(page: Any) -> list[NDArray[np.float64]]:
    """Return the corners of each line that the viewer draws over the radiograph, [n,2], in pixels of the viewport."""
    lines = [each.get_attribute("points") for each in page.locator("svg.svg-layer polyline").all()]
    pairs = [re.findall(r"[-\d.]+, ?[-\d.]+", points) for points in lines]
    return [np.array([pair.split(",") for pair in points], np.float64) for points in pairs]


@pytest.mark.slow
def test_the_study_opens_in_a_viewer_with_all_results(daemon: Callable[..., Daemon], tmp_path: Path, page: Any) -> None:
    port = free_port()
    files = viewer_files()
    orthanc = Orthanc(tmp_path / "orthanc", port)
    viewer = ViewerServer(files, orthanc.url)
    try:
        worker = daemon([("orthanc", orthanc.dicom, "ORTHANC")], scp={"port": port})
        source = drawn_radiographs()["phantom-2-opacity"]  # one that is flagged: with a heatmap and a region
        orthanc.send_to_cxrd([orthanc.upload(encode(source))])
        wait_for(lambda: orthanc.get("/statistics")["CountInstances"] == 4, 60)
        (said,) = findings(worker.ledger, Filter())

        answers: list[Any] = []
        page.on("response", lambda answer: answers.append(answer) if answer.url.endswith("/metadata") else None)
        # The viewer greets a first visitor with a tour, at a moment of its own choosing.
        page.add_locator_handler(page.get_by_text("Skip all"), lambda skip: skip.click())
        study = viewer.study(str(source.StudyInstanceUID))
        page.goto(study)
        page.get_by_text("cxrd pneumonia heatmap").first.wait_for()
        listed = page.locator("body").inner_text()
        for series in ("cxrd pneumonia heatmap", "cxrd pneumonia report", "cxrd pneumonia answer"):
            assert series in listed, listed

        plain = coloured(page)
        overlay = rendered(orthanc, "OT")
        fetched = [Dataset.from_json(each) for answer in answers for each in json.loads(answer.body())]
        (shown,) = [each for each in fetched if each.Modality == "OT"]
        (report,) = [each for each in fetched if each.Modality == "SR"]
        open_series(page, study, shown.SeriesInstanceUID, lambda: likeness(canvas(page), overlay) > 0.9)
        assert coloured(page) > 0.005
        assert plain < 0.005  # the radiograph itself is grey
        shot(page, "viewer-overlay")

        labels = page.locator("svg.svg-layer text")
        open_series(page, study, report.SeriesInstanceUID, lambda: bool(labels.count() and labels.first.text_content()))
        _the_report_is_shown(page, said, report, rendered(orthanc, "DX"))
        _the_presentation_state_is_listed_and_not_applied(page)
    finally:
        viewer.stop()
        orthanc.stop()


def _the_report_is_shown(page: Any, said: dict[str, Any], report: Dataset, radiograph: Image.Image) -> None:
    """The viewer has loaded the whole finding; of it, it shows the region and the numbers, and no codes."""
    told = coded(report)
    assert told["Finding"] == "Pneumonia"
    assert told["Presence"] == "Present"
    percent = 100 * bounded(said["probability"])
    assert float(told["Probability"]) == pytest.approx(percent, abs=1e-2)
    labels = page.locator("svg.svg-layer text")
    # Rounded, and with the unit 1 ("no units") behind it.
    number = f"Probability: {percent:.2f} %"
    shown_words = [" ".join(words.split()) for words in labels.all_text_contents()]
    assert any(number in words for words in shown_words), shown_words
    wait_for(lambda: likeness(canvas(page), radiograph) > 0.9)
    regions = [item for item in tree(report) if item.get("ValueType") == "SCOORD"]
    # In the viewport the region lies where it lies in the image: as far apart, and as far from the corners.
    shown = canvas(page)
    scale = min(shown.width / radiograph.width, shown.height / radiograph.height)
    corner = (np.array(shown.size) - scale * np.array(radiograph.size)) / 2
    drawn = outlines(page)
    for region in regions:
        points = corner + scale * np.reshape(np.array(region.GraphicData, np.float64), (-1, 2))
        assert min(np.abs(each - points).max() for each in drawn if each.shape == points.shape) < 2
    page.locator('[data-cy="trackedMeasurements-btn"]').click()
    page.get_by_text("No tracked measurements").wait_for()  # of its own tools' alone, and this is none of them
    shot(page, "viewer-report")


def _the_presentation_state_is_listed_and_not_applied(page: Any) -> None:
    """As docs/results.md says: a viewer that comes to apply it makes this fail."""
    before, outlines = canvas(page), page.locator("svg.svg-layer polyline").count()
    page.get_by_text("cxrd pneumonia answer").first.dblclick()
    page.wait_for_timeout(3000)
    assert likeness(canvas(page), before) > 0.99
    assert page.locator("svg.svg-layer polyline").count() == outlines  # the report's, without the boxes of the state
    shot(page, "viewer-presentation-state")
