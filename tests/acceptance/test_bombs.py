"""Bombs through the running program, together with innocent images: those are answered, and no process swells."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest
from pydicom.filereader import _read_file_meta_info
from pydicom.uid import JPEG2000Lossless, RLELossless
from pynetdicom import AE
from pynetdicom.presentation import build_context

from dicom_io.network.status import CANNOT_UNDERSTAND, OUT_OF_RESOURCES
from dicom_io.objects.common import encode
from tests.acceptance.program import Service
from tests.support.bombs import deflated, enlarged, many_elements, nested, rle
from tests.support.peers import chest, send, store_bytes, wait_for

LIMIT_MB = 150
"""`pixels.max_memory_mb`: what one image may take."""
BOUNDS_MB = {"serve": 200, "receive": 250, "deliver": 250, "work": 900, "decoder": 300}
"""Megabytes that a process may come to: program and libraries, and for each of two threads of `work` LIMIT_MB."""
ROLES = ("receive", "work", "deliver")
INNOCENTS = 8


def bombs(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the bombs by name, as files."""
    for where in ("pixels", "header"):
        yield f"deflated {where}", deflated(folder / "bomb", 600, where=where, name=f"deflated {where}").read_bytes()
    for form in ("flat", "undefined", "defined"):
        yield f"{form} elements", many_elements(folder / "bomb", 900_000, form, name=f"{form} elements").read_bytes()
    for defined in (True, False):
        name = f"nested, {'defined' if defined else 'undefined'}"
        yield name, nested(folder / "bomb", 3000, defined=defined, name=name).read_bytes()
    yield "rle", encode(rle(3000, name="rle"))
    for side in (60_000, 5000, 4500):
        yield f"{side} pixels to a side", encode(enlarged(side, name=f"{side} pixels to a side"))
    huge = chest("huge", Rows=65_535, Columns=65_535)
    yield "native, huge", encode(huge)
    large = chest("large", rows=4000, cols=4000, Rows=6000, Columns=6000)
    large.PixelData = large.PixelData + bytes(2 * 6000 * 6000 - len(large.PixelData))
    yield "native, large", encode(large)


def send_file(port: int, data: bytes) -> int:
    """Send a file as it is; return the status."""
    file = BytesIO(data)
    file.seek(132)
    meta = _read_file_meta_info(file)  # of the bombs, it does not state its length
    sop_class, instance = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    contexts = [build_context(sop_class, meta.TransferSyntaxUID)]
    association = AE("BOMBER").associate("127.0.0.1", port, contexts=contexts, ae_title="CXRD")
    assert association.is_established
    try:
        return store_bytes(association, 1, file.read(), sop_class, instance)
    finally:
        association.release()


class Watch:
    """Looks again and again at how much memory the program's processes have come to, by role."""

    def __init__(self, supervisor: int) -> None:
        self._supervisor = supervisor
        self._over = threading.Event()
        self.peaks: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.02):
            for role, megabytes in _memory(self._supervisor):
                self.peaks[role] = max(megabytes, self.peaks.get(role, 0.0))


def _memory(supervisor: int) -> Iterator[tuple[str, float]]:
    """Yield role and highest resident memory, in megabytes, of a supervisor and of all that descend from it."""
    waiting = [supervisor]
    while waiting:
        folder = Path(f"/proc/{waiting.pop()}")
        try:
            waiting += [int(pid) for path in folder.glob("task/*/children") for pid in path.read_text().split()]
            words = (folder / "cmdline").read_text().split("\0")
            lines = (folder / "status").read_text().splitlines()
        except OSError:  # it, or one of its threads, has just ended
            continue
        peak = next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)  # none of a zombie
        role = "decoder" if any(word.endswith("decoder.py") for word in words) else "serve"
        yield next((each for each in ROLES if each in words), role), peak * 1024 / 1e6


@pytest.mark.slow
def test_bombs_cost_nobody_else_anything(tmp_path: Path, serve: Callable[..., Service]) -> None:
    service = serve(
        pixels={"max_memory_mb": LIMIT_MB, "max_elements": 50_000, "decode_seconds": 20},
        worker={"threads": 2},
        commitment={"offered": True},
    )
    service.start()
    wait_for(lambda: len(service.events("ready")) >= 2, 180)
    innocents = [chest(f"innocent-{number}", rows=300, cols=280) for number in range(INNOCENTS)]
    for dataset, syntax in zip(innocents, (JPEG2000Lossless, RLELossless), strict=False):
        dataset.compress(syntax, generate_instance_uid=False)
    codes: dict[str, int] = {}

    def throw(bomb: tuple[str, bytes]) -> None:
        codes[bomb[0]] = send_file(service.port, bomb[1])

    with Watch(service.pid) as watch, ThreadPoolExecutor(3) as pool, ThreadPoolExecutor(2) as others:
        thrown = others.map(throw, bombs(tmp_path))
        sent = pool.map(lambda dataset: send(service.port, [dataset]), innocents)
        assert list(sent) == [[0x0000]] * INNOCENTS
        list(thrown)
        wait_for(lambda: not [each for each in service.findings() if each["status"] == "received"], 300)
    rows = {row["sop_instance_uid"]: row for row in service.findings()}
    uids = {str(each.SOPInstanceUID) for each in innocents}
    assert {rows.pop(uid)["status"] for uid in uids} == {"analysed"}
    taken = [name for name, code in codes.items() if code == 0x0000]
    assert len(rows) == len(taken) >= 5, codes
    assert set(codes.values()) == {0x0000, CANNOT_UNDERSTAND}
    assert len(service.events("refused")) == len(codes) - len(taken)
    for row in rows.values():
        assert row["status"] in ("failed", "not_analysed"), row
        assert row["reason"], row
        assert "unexpected" not in row["reason"], row
    over = {role: peak for role, peak in watch.peaks.items() if peak > BOUNDS_MB[role]}
    assert (over, watch.peaks.keys()) == ({}, BOUNDS_MB.keys())
    assert not service.events("child_died")
    assert service.stop() == 0


@pytest.mark.slow
def test_many_senders_together_have_the_receiver_hold_no_more_than_it_may(
    tmp_path: Path, serve: Callable[..., Service]
) -> None:
    """Headers that are large in memory came to 1.3 GB with 20 associations; each alone is within its limits."""
    service = serve(scp={"max_memory_mb": 30})
    service.start("receive")
    data = many_elements(tmp_path / "many", 60_000, "undefined").read_bytes()
    with Watch(service.pid) as watch, ThreadPoolExecutor(12) as pool:
        thrown = [pool.submit(send_file, service.port, data) for _ in range(12)]
        assert send(service.port, [chest("innocent")]) == [0x0000]
        codes = [each.result() for each in thrown]
    assert set(codes) == {OUT_OF_RESOURCES}
    reasons = {each["reason"] for each in service.events("refused")}
    assert reasons == {"peers take as much memory as they may (scp.max_memory_mb)"}
    assert watch.peaks["receive"] < BOUNDS_MB["receive"]
    assert service.stop() == 0
