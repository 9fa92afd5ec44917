"""Where the milliseconds go: the stages of one 2500×2048 image, one after the other, with medians over several images.

    .venv/bin/python benchmarks/stages.py [--images 20] [--json]

The stages from `spool` to `ledger.answer` run one after the other in this thread. The two network stages run at the
end: pynetdicom works with threads of its own there, and only their CPU time is comparable.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2

from benchmarks import common
from benchmarks.processes import Process, Sender
from dicom_io.header.eligibility import judge
from dicom_io.header.reading import read_dataset, read_header
from dicom_io.header.source_image import source_image
from dicom_io.network.spool_file import SpoolFile
from dicom_io.network.storage_scp import StorageNode
from dicom_io.network.storage_scu import Peer, storage_association
from dicom_io.objects.common import encode
from dicom_io.objects.secondary_capture import KIND, secondary_capture
from dicom_io.pixels.render import render
from modeltrain.model.card import Card, load_card, shipped_model
from modeltrain.model.decision import Decider
from modeltrain.model.evidence import evidence_map, regions_of
from modeltrain.model.lung_areas import lungs_of
from modeltrain.model.preprocess import to_input
from worker.clock import now
from worker.database.connection import connect
from worker.demo.orthanc import free_port
from worker.engines.analysis import rules_of
from worker.engines.receiver import node_options
from worker.inference.engine import OnnxEngine
from worker.ledger import migrations
from worker.ledger.receipts import Ledger, Receipts
from worker.ledger.records import NewFinding, NewReceipt, NewResult
from worker.queue.claim import Queue
from worker.queue.task import Kind
from worker.results.kinds import KINDS
from worker.results.overlay import compose
from worker.settings import Scp, Settings
from worker.storage.blobs import Blobs

FRAGMENT = 131072
"""Bytes in one PDU when the sender makes use of our largest."""
_CAPTURE = ("1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.1.2.1")


@dataclass(frozen=True)
class Stage:
    """Medians of one stage, in milliseconds for one image."""

    name: str
    wall: float
    cpu: float


class Stopwatch:
    """Collects wall and CPU times by the stage's name."""

    def __init__(self) -> None:
        self._times: dict[str, list[tuple[float, float]]] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.add(name, time.perf_counter() - wall, time.process_time() - cpu)

    def add(self, name: str, wall: float, cpu: float) -> None:
        """Enter one time, in seconds."""
        self._times.setdefault(name, []).append((wall, cpu))

    def clear(self) -> None:
        """Forget everything so far: it was for warming up."""
        self._times.clear()

    def medians(self) -> list[Stage]:
        """Return the stages in the order in which they first ran."""
        return [
            Stage(name, *(1000 * statistics.median(column) for column in zip(*times, strict=True)))
            for name, times in self._times.items()
        ]


class Bench:
    """The parts of the daemon without its threads."""

    def __init__(self, folder: Path, card: Card, threads: int) -> None:
        cv2.setNumThreads(threads)
        self.settings = Settings()
        self.card = card
        self.decider = Decider(card)
        self.blobs = Blobs(folder / "objects")
        database = connect(f"sqlite:///{folder / 'ledger.sqlite'}")
        migrations.upgrade(database)
        self.ledger = Ledger(database)
        self.queue = Queue(self.ledger)
        self.desk = Receipts(self.ledger, self.queue)
        self.engine = OnnxEngine(card.folder / "model.onnx", threads)
        self.identity = card.identity
        self.rules = rules_of(self.settings)

    def receive(self, file: Path, watch: Stopwatch) -> tuple[int, str]:
        """Do what C-STORE waits for; return the receipt's id and the digest of the object."""
        data = file.read_bytes()
        with watch.stage("spool: write and SHA-256"):
            spool = SpoolFile(self.blobs.incoming)
            for start in range(0, len(data), FRAGMENT):
                spool.write(data[start : start + FRAGMENT])
            spool.flush_to_disk()
        with watch.stage("read_header"):
            header = read_header(spool.path)
        with watch.stage("blobs.adopt: fsync, rename"):
            sha256 = self.blobs.adopt(spool)
        new = NewReceipt(
            sop_instance_uid=str(header.SOPInstanceUID),
            sop_class_uid=str(header.SOPClassUID),
            study_instance_uid=str(header.StudyInstanceUID),
            series_instance_uid=str(header.SeriesInstanceUID),
            transfer_syntax_uid=str(header.file_meta.TransferSyntaxUID),
            modality=str(header.Modality),
            accession_number=str(header.AccessionNumber),
            patient_key="",
            calling_ae="BENCH",
            called_ae="CXRD",
            peer_address="127.0.0.1",
            sha256=sha256,
            size_bytes=len(data),
            received_at=now(),
        )
        with watch.stage("ledger.receive"):
            receipt_id = self.ledger.receive(new)
        if receipt_id is None:
            raise common.Missing("the same image twice")
        return receipt_id, sha256

    def work(self, receipt_id: int, sha256: str, watch: Stopwatch) -> Path:
        """Do what the pipeline does; return the result's file."""
        with watch.stage("queue.claim, load"):
            (task,) = self.queue.claim([Kind.ANALYSE], now(), subject=receipt_id)
            claim = self.desk.load(task)
        with watch.stage("read_dataset"):
            dataset = read_dataset(self.blobs.path(sha256))
        with watch.stage("judge, ledger.is_result"):
            judge(dataset, self.rules)
            self.ledger.is_result(str(dataset.SOPInstanceUID))
        with watch.stage("render"):
            rendered = render(dataset, max_pixels=self.settings.pixels.max_pixels)
        with watch.stage("to_input"):
            image = to_input(rendered.values, self.card.input_size)
        with watch.stage("forward"):
            outputs = self.engine.predict(image[None])
        with watch.stage("evidence, lungs, regions"):
            evidence = evidence_map(outputs, 0, self.decider.slope, self.decider.intercept)
            lungs, shape = outputs.lungs[0], rendered.values.shape
            finding = replace(
                self.decider(outputs)[0],
                lungs=lungs_of(lungs, *shape),
                regions=regions_of(evidence, lungs, *shape),
            )
        created = now()
        with watch.stage("compose"):
            picture = compose(
                rendered.values,
                evidence,
                finding=finding,
                identity=self.identity,
                created=created,
                aspect=rendered.aspect,
                height=self.settings.results.height,
            )
        with watch.stage("secondary_capture"):
            basis = KINDS[KIND.name].basis(source_image(dataset), self.identity, self.settings.results, created)
            result = secondary_capture(basis, finding, picture)
        with watch.stage("encode"):
            data = encode(result)
        with watch.stage("blobs.put: SHA-256, write, fsync"):
            stored = self.blobs.put(data)
        new = NewFinding(self.identity, finding, float(image.mean()), float(image.std()), created)
        uids = (str(result.SOPClassUID), str(result.SOPInstanceUID), str(result.SeriesInstanceUID))
        with watch.stage("ledger.answer"):
            entry = NewResult(KIND.name, *uids, stored, len(data), ("orthanc",))
            self.desk.record_finding(claim, new, [entry], now())
        return self.blobs.path(stored)


def main() -> None:
    """Measure and print."""
    options = _options()
    card = load_card(options.model or shipped_model())
    watch = Stopwatch()
    with tempfile.TemporaryDirectory(prefix="cxrd-bench-") as name:
        folder = Path(name)
        files = common.radiographs(folder / "images", options.images).files
        os.sync()
        bench = Bench(folder, card, options.threads)
        for file in files[:2]:  # to warm up
            bench.work(*bench.receive(file, watch), watch)
            common.refresh(file)
        watch.clear()
        results = [bench.work(*bench.receive(file, watch), watch) for file in files]
        size = statistics.median(result.stat().st_size for result in results)
        in_process = watch.medians()
        watch.clear()
        time_receiving(files, folder, watch)
        time_delivery(results, folder, watch)
        network = watch.medians()
    if options.json:
        parts = {"stages": in_process, "network": network}
        print(json.dumps({name: [asdict(each) for each in part] for name, part in parts.items()}))
    else:
        _print_table(in_process, network, options, size)


def time_receiving(files: Sequence[Path], folder: Path, watch: Stopwatch) -> None:
    """Send the files to our node, which spools and drops them."""
    node = StorageNode(node_options(Scp(port=0)), folder / "spool", lambda _arrival: 0)
    node.start()
    try:
        Sender(files[:1], node.port).run()
        cpu, sender = time.process_time(), Sender(files, node.port)
        sender.run()
        used = (time.process_time() - cpu) / len(files)
        for transfer in sender.transfers.values():
            if transfer.answered is not None:
                watch.add("pynetdicom: receive an image (with spool)", transfer.answered - transfer.begun, used)
    finally:
        node.stop()


def time_delivery(results: Sequence[Path], folder: Path, watch: Stopwatch) -> None:
    """Send the results to DCMTK's storescp, which drops them."""
    port = free_port()
    command = [common.program("storescp", "dcmtk"), "--ignore", str(port)]
    receiver = Process("storescp", command, folder)
    try:
        receiver.wait_until_it_answers(port)
        with storage_association(Peer("127.0.0.1", port, "ANY", calling_ae="CXRD", timeout=30), [_CAPTURE]) as delivery:
            delivery.store(results[0])
            for result in results:
                with watch.stage("pynetdicom: deliver a result"):
                    delivery.store(result)
    finally:
        receiver.stop()


def _print_table(
    in_process: Sequence[Stage], network: Sequence[Stage], options: argparse.Namespace, size: float
) -> None:
    print(
        f"{options.images} images of {common.ROWS}×{common.COLUMNS}, medians, {os.cpu_count()} cores, "
        f"{options.threads} thread(s) in the forward pass and in OpenCV; a result has {size / 1e6:.1f} MB\n"
    )
    print("| stage | wall ms | CPU ms |")
    print("|---|---:|---:|")
    total = Stage("sum", sum(each.wall for each in in_process), sum(each.cpu for each in in_process))
    for stage in (*in_process, total, *network):
        print(f"| {stage.name} | {stage.wall:.1f} | {stage.cpu:.1f} |")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=common.at_least_one, default=20, help="images to take the medians of")
    parser.add_argument("--threads", type=common.at_least_one, default=1, help="of one forward pass, and of OpenCV")
    parser.add_argument("--model", type=Path, help="folder of the model; default: the shipped one")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser.parse_args()


if __name__ == "__main__":
    common.run(main)
