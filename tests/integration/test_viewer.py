"""Seen by a person: a study in the OHIF viewer, from a real Orthanc's DICOMweb, in a real browser.

Screenshots stay in the folder that CXRD_TEST_ARTIFACTS names (default: build/screenshots).
"""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dicom_io.derived import encode
from tests.integration.orthanc import Orthanc, binary, free_port
from tests.peers import wait_for
from worker.daemon import Daemon
from worker.phantom import draw, radiograph
from worker.viewer import ViewerServer

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
    chromium = binary("chromium")
    if not os.environ.get("CI"):
        pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    playwright = importlib.import_module("playwright.sync_api")
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=chromium, args=FLAGS)
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


def open_series(page: Any, description: str, seen: Callable[[], bool]) -> None:
    """Open a series from the list at the left by a double click, and by another where the viewer was still busy."""
    for _ in range(5):
        page.get_by_text(description, exact=False).first.dblclick()
        try:
            wait_for(seen, 15)
        except AssertionError:
            continue
        return
    raise AssertionError(f"{description} did not open")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_study_opens_in_a_viewer_with_all_results(daemon: Callable[..., Daemon], tmp_path: Path, page: Any) -> None:
    port = free_port()
    files = viewer_files()
    orthanc = Orthanc(tmp_path / "orthanc", port)
    viewer = ViewerServer(files, orthanc.url)
    try:
        daemon([("orthanc", orthanc.dicom, "ORTHANC")], scp={"port": port})
        source = radiograph(draw(seed=5, rows=1024, cols=860, opacity=True), uid_seed="viewer")
        orthanc.send_to_cxrd([orthanc.upload(encode(source))])
        wait_for(lambda: orthanc.get("/statistics")["CountInstances"] == 4, 60)

        # The viewer greets a first visitor with a tour, at a moment of its own choosing.
        page.add_locator_handler(page.get_by_text("Skip all"), lambda skip: skip.click())
        page.goto(viewer.study(str(source.StudyInstanceUID)))
        page.get_by_text("cxrd pneumonia heatmap").first.wait_for()
        listed = page.locator("body").inner_text()
        for series in ("cxrd pneumonia heatmap", "cxrd pneumonia report", "cxrd pneumonia region"):
            assert series in listed, listed

        plain = coloured(page)
        open_series(page, "cxrd pneumonia heatmap", lambda: coloured(page) > 0.005)
        assert plain < 0.005  # the radiograph itself is grey
        shot(page, "viewer-overlay")

        body = page.locator("body")
        open_series(page, "cxrd pneumonia report", lambda: "Probability" in body.inner_text() + body.inner_html())
        page.wait_for_timeout(2000)
        shot(page, "viewer-report")
    finally:
        viewer.stop()
        orthanc.stop()
