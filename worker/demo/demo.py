"""`cxrd demo`: sends radiographs to a worker and shows its results; worker and receiving node are in this process."""

from __future__ import annotations

import contextlib
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pydicom import Dataset
from rich.progress import Progress

from dicom_io.errors import CxrdError, InvalidData
from dicom_io.header.reading import read_dataset, read_header
from dicom_io.network import status
from dicom_io.network.storage_scp import Arrival, StorageNode
from dicom_io.network.storage_scu import Peer, storage_association
from dicom_io.objects.common import encode
from dicom_io.objects.radiograph import radiograph
from modeltrain.model.preprocess import read_picture
from worker.demo.child_phantom import LEFT_MIDDLE, RIGHT_LOWER, RIGHT_UPPER, draw_child
from worker.demo.orthanc import LocalOrthanc
from worker.destination_settings import Destination, DicomDestination
from worker.engines.daemon import Daemon
from worker.engines.offline import PICTURES, find
from worker.engines.receiver import node_options
from worker.ledger.queries import Filter, findings
from worker.settings import Scp, Settings
from worker.storage.blobs import Blobs

DRAWN = ((1, None), (2, RIGHT_LOWER), (5, None), (0, LEFT_MIDDLE), (7, None), (4, RIGHT_UPPER))
"""The seed of each drawn child, and the opacity in it. Of the children tried, the shipped model is surest of these."""

PATIENCE = 60.0
"""Seconds without any progress after which the demo gives up."""


@dataclass(frozen=True)
class DemoResult:
    """The rows of the audit, where pictures, objects and database lie, and whether all was answered in time."""

    rows: list[dict[str, Any]]
    pictures: Path
    objects: Path
    database: Path
    complete: bool


def run(
    settings: Settings, images: Path | None, out: Path, bar: Progress, *, orthanc: LocalOrthanc | None = None
) -> DemoResult:
    """Send radiographs through a worker of its own and collect the answers.

    Parameters
    ----------
    images
        A folder or file: DICOM, JPEG or PNG; None for drawn children.
    out
        Emptied of an earlier demo; ``sent/``, ``objects/``, ``pictures/`` and ``data/`` are made in it.
    orthanc
        Gets the radiographs and the results too, so that a viewer can show them together.
    """
    for name in ("sent", "objects", "pictures", "data"):
        shutil.rmtree(out / name, ignore_errors=True)
        (out / name).mkdir(parents=True)
    sources = _prepare(images, out / "sent")
    if not sources:
        raise InvalidData(f"{images}: no radiograph in it")
    destinations = []
    if orthanc is not None:
        for path in sources.values():
            with contextlib.suppress(OSError):  # it takes less than we do; the rest is worth showing
                orthanc.upload(path.read_bytes())
        destinations.append(_local_destination("orthanc", orthanc.dicom, "ORTHANC"))
    receiver = _Receiver(out)
    receiver.node.start()
    try:
        destinations.append(_local_destination("demo", receiver.node.port, "DEMO"))
        daemon = Daemon(_demo_settings(settings, out / "data", tuple(destinations)))
        daemon.start()
        try:
            _send(sources, daemon.port, settings.scp.ae_title, bar)
            complete = _wait(daemon, len(sources), bar)
            rows = findings(daemon.ledger, Filter())
        finally:
            daemon.stop()
    finally:
        receiver.node.stop(grace=1)
    by_uid = {str(read_header(path).SOPInstanceUID): name for name, path in sources.items()}
    rows = [row | {"file": by_uid[row["sop_instance_uid"]]} for row in reversed(rows)]
    return DemoResult(rows, out / "pictures", out / "objects", out / "data" / "ledger.sqlite", complete)


def _prepare(images: Path | None, folder: Path) -> dict[str, Path]:
    """Return DICOM objects by the name of the file or phantom that they were made from."""
    if images is None:
        return {name: _save(dataset, folder / f"{name}.dcm") for name, dataset in drawn_radiographs().items()}
    objects: dict[str, Path] = {}
    for number, file in enumerate(find([images])):
        if file.suffix.lower() in PICTURES:
            values = (read_picture(file) * 255).round().astype(np.uint8)
            objects[file.name] = _save(radiograph(values, uid_seed=f"demo-{file}"), folder / f"{number:05d}.dcm")
        else:
            try:
                read_dataset(file)
            except CxrdError:
                continue  # a folder of images often holds a text file or a DICOMDIR's index beside them
            objects[file.name] = file
    return objects


def drawn_radiographs() -> dict[str, Dataset]:
    """Draw the children of `DRAWN`, and return their radiographs by name."""
    drawn = {}
    for number, (seed, opacity) in enumerate(DRAWN, start=1):
        name = f"phantom-{number}{'-opacity' if opacity else ''}"
        pixels = draw_child(seed, opacity=opacity)
        spacing = [round(240 / pixels.shape[0], 4)] * 2  # a child's chest and what is around it: some 24 cm
        drawn[name] = radiograph(pixels, uid_seed=f"demo-{name}", PixelSpacing=spacing, ImagerPixelSpacing=spacing)
    return drawn


def _save(dataset: Dataset, path: Path) -> Path:
    path.write_bytes(encode(dataset))
    return path


def _local_destination(name: str, port: int, title: str) -> Destination:
    return DicomDestination(name=name, host="127.0.0.1", port=port, ae_title=title)


def _demo_settings(settings: Settings, folder: Path, destinations: tuple[Destination, ...]) -> Settings:
    """Return the settings with a folder, a port and destinations of the demo's own."""
    changes = {
        "storage": settings.storage.model_copy(update={"folder": folder, "min_free_mb": 0}),
        "ledger": settings.ledger.model_copy(update={"url": ""}),
        "scp": settings.scp.model_copy(update={"host": "127.0.0.1", "port": 0, "allowed_calling": (), "tls": None}),
        "destinations": destinations,
    }
    return settings.model_copy(update=changes)


class _Receiver:
    """The node that plays the PACS: writes each result as DICOM, and its pixels as PNG."""

    def __init__(self, out: Path) -> None:
        self._out = out
        blobs = Blobs(out / "data" / "received")
        options = node_options(Scp(ae_title="DEMO", port=0))
        self.node = StorageNode(options, blobs.incoming, self._receive)

    def _receive(self, arrival: Arrival) -> int:
        arrival.file.seal()
        dataset = read_dataset(arrival.file.path)
        stem = f"{arrival.sop_instance_uid[-12:]}"
        shutil.copyfile(arrival.file.path, self._out / "objects" / f"{stem}.dcm")
        if "PixelData" in dataset:  # a report and a presentation state have no picture of their own
            frames = dataset.pixel_array.reshape(-1, dataset.Rows, dataset.Columns, 3)
            for number, frame in enumerate(frames):
                name = f"{stem}-{number + 1}.png" if len(frames) > 1 else f"{stem}.png"
                cv2.imwrite(str(self._out / "pictures" / name), frame[..., ::-1])
        return status.SUCCESS


def _send(sources: dict[str, Path], port: int, title: str, bar: Progress) -> None:
    task = bar.add_task("sending", total=len(sources))
    paths = list(sources.values())
    headers = [read_header(path) for path in paths]
    kinds = {(str(header.SOPClassUID), str(header.file_meta.TransferSyntaxUID)) for header in headers}
    peer = Peer(host="127.0.0.1", port=port, ae_title=title, calling_ae="DEMO", timeout=30)
    with storage_association(peer, kinds) as delivery:
        for path in paths:
            delivery.store(path)
            bar.advance(task)


def _wait(daemon: Daemon, total: int, bar: Progress) -> bool:
    """Wait until each image has its decision and each result is delivered, as long as there is progress."""
    task = bar.add_task("answering", total=total)
    last, since = -1, time.monotonic()
    while time.monotonic() - since < PATIENCE:
        counts = daemon.ledger.counts()
        decided = sum(counts.get(state, 0) for state in ("analysed", "not_analysed", "failed"))
        waiting = counts.get("delivery_pending", 0)
        bar.update(task, completed=decided)
        if decided == total and not waiting:
            return True
        if decided - waiting != last:
            last, since = decided - waiting, time.monotonic()
        time.sleep(0.1)
    return False
