"""The processes that a benchmark runs: Orthanc, the two workers, and senders, each in a folder of its own."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks.arrivals import Arrival, Transfer, completions
from benchmarks.common import Missing, program, shared
from worker.demo.orthanc import free_port
from worker.settings import Results

POLL = 0.02
"""Seconds between two looks at Orthanc: the resolution of a result's time."""
PATIENCE = 60.0
"""Seconds without any new object after which what has not come is missing."""
_TICK = os.sysconf("SC_CLK_TCK")


class Process:
    """A child process with its log in a file, ended by its own process id."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, env: dict[str, str] | None = None) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("wb") as log:
            self._child = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=env)

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._child.poll() is None

    def wait_until_it_answers(self, port: int, seconds: float = 180.0) -> None:
        """Wait for an answer to C-ECHO; raise `Missing` where the process ends before."""
        echo = [program("echoscu", "dcmtk"), "-to", "2", "127.0.0.1", str(port)]
        deadline = time.monotonic() + seconds
        while subprocess.run(echo, capture_output=True, check=False).returncode:
            if not self.alive or time.monotonic() > deadline:
                last = (self.log.read_text(errors="replace").strip().splitlines() or ["no message"])[-1]
                raise Missing(f"{self.name} did not start: {last}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End it and wait."""
        self._child.terminate()
        try:
            self._child.wait(30)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    def cpu_seconds(self) -> float:
        """Return the CPU time of the process and all its children so far: user and system."""
        return sum(_cpu_ticks(pid) for pid in self.family()) / _TICK

    def peak_megabytes(self) -> float:
        """Return the greatest resident memory of the process, and its children's added (VmHWM)."""
        kilobytes = 0
        for pid in self.family():
            peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
            kilobytes += int(peak.group(1)) if peak else 0
        return kilobytes / 1024

    def family(self) -> list[int]:
        """Return the numbers of the process and of all its children."""
        family = [self._child.pid]
        for pid in family:  # grows while we walk
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                family.extend(int(child) for child in task.read_text().split())
        return family


def _cpu_ticks(pid: int) -> int:
    """Return utime, stime, cutime and cstime added (proc(5)); the name before them may hold anything but ')'."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(each) for each in fields[11:15])


def cxrd(folder: Path, destination: int, model: Path) -> tuple[Process, int]:
    """Start `cxrd serve` with the ONNX engine and one destination; return it and its port."""
    port = free_port()
    settings = {
        "scp": {"port": port},
        "storage": {"folder": str(folder / "data"), "min_free_mb": 0},
        # Every image costs a whole answer, also one that the model was not made for.
        "model": {"folder": str(model), "engine": "onnx", "out_of_distribution": "warn"},
        "results": {"kinds": list(Results().kinds)},
        "destinations": [{"name": "orthanc", "host": "127.0.0.1", "port": destination, "ae_title": "ORTHANC"}],
        "logging": {"format": "json"},
    }
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump(settings))
    binary = Path(sys.executable).with_name("cxrd")
    if not binary.exists():
        raise Missing(f"{binary} is not installed: run make install")
    plain = {name: value for name, value in os.environ.items() if not name.upper().startswith("CXRD_")}
    return Process("cxrd", [str(binary), "serve", "--config", str(config)], folder, plain), port


def naive(folder: Path, destination: int, model: Path) -> tuple[Process, int]:
    """Start the yardstick with the same weights; return it and its port."""
    port = free_port()
    script, weights = shared("bench", "naive_worker.py"), model / "model.safetensors"
    where = ["--port", str(port), "--to", f"127.0.0.1:{destination}:ORTHANC", "--weights", str(weights)]
    return Process("naive", [sys.executable, str(script), *where], folder), port


class Orthanc:
    """A fresh, empty Orthanc with Debian's default settings, that takes objects from this machine only."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._http, self.dicom = free_port(), free_port()
        modalities = {name: {"AET": name, "Host": "127.0.0.1", "Port": 104} for name in ("CXRD", "NAIVE")}
        settings = {
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "index"),
            "HttpPort": self._http,
            "DicomPort": self.dicom,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            # This version cannot be bound to one address; what is not one of these two on this machine is refused.
            "DicomAlwaysAllowStore": False,
            "DicomCheckModalityHost": True,
            "DicomModalities": modalities,
        }
        config = folder / "orthanc.json"
        config.write_text(json.dumps(settings))
        self._process = Process("orthanc", [program("Orthanc", "orthanc"), str(config)], folder)
        self._process.wait_until_it_answers(self.dicom)
        self._connection = http.client.HTTPConnection("127.0.0.1", self._http, timeout=30)

    def get(self, path: str) -> Any:
        """GET JSON on a connection that stays open; Orthanc closes it after a second without a request."""
        try:
            self._connection.request("GET", path)
            answer = self._connection.getresponse()
        except ConnectionError:  # RemoteDisconnected is one
            self._connection.close()
            self._connection.request("GET", path)
            answer = self._connection.getresponse()
        return json.loads(answer.read())

    def stop(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.stop()


class Watch(threading.Thread):
    """Notes when each new object is stored in Orthanc, by polling its list of changes."""

    def __init__(self, orthanc: Orthanc) -> None:
        super().__init__(name="watch", daemon=True)
        self._orthanc = orthanc
        self._ending = threading.Event()
        self._news = threading.Condition()
        self._arrivals: list[Arrival] = []

    @property
    def arrivals(self) -> list[Arrival]:
        """What has arrived so far."""
        with self._news:
            return list(self._arrivals)

    def run(self) -> None:
        """Poll until stopped."""
        since = 0
        while not self._ending.wait(POLL):
            changes = self._orthanc.get(f"/changes?since={since}&limit=1000")
            moment = time.monotonic()
            since = changes["Last"]
            new = [each["ID"] for each in changes["Changes"] if each["ChangeType"] == "NewInstance"]
            stored = [Arrival(instance, self._study(instance), moment) for instance in new]
            if stored:
                with self._news:
                    self._arrivals += stored
                    self._news.notify_all()

    def wait_for(self, studies: Collection[str], objects: int, worker: Process) -> None:
        """Wait until each of these studies has so many objects, or until none has come for `PATIENCE` seconds."""
        begun = time.monotonic()
        with self._news:
            while not set(studies) <= completions(self._arrivals, objects).keys() and worker.alive:
                latest = max([begun, *(each.moment for each in self._arrivals)])
                left = latest + PATIENCE - time.monotonic()
                if left <= 0:
                    return
                self._news.wait(min(left, 1.0))

    def stop(self) -> None:
        """End the polling."""
        self._ending.set()
        self.join()

    def _study(self, instance: str) -> str:
        return str(self._orthanc.get(f"/instances/{instance}/study")["MainDicomTags"]["StudyInstanceUID"])


@dataclass(eq=False)
class Sender(threading.Thread):
    """DCMTK's storescu with one association; `transfers` holds what it reports of each file."""

    files: Sequence[Path]
    port: int
    transfers: dict[Path, Transfer] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(name="sender", daemon=True)

    def run(self) -> None:
        """Send all files in their order."""
        # -v tells when each request begins and is answered; -R proposes only the contexts needed; -nh goes on after a
        # failure, as a PACS does.
        command = [program("storescu", "dcmtk"), "-v", "-R", "-nh", "-aec", "CXRD", "127.0.0.1", str(self.port)]
        names = [str(file) for file in self.files]
        with subprocess.Popen(
            [*command, *names], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
        ) as child:
            file = Path()
            for line in child.stderr or ():
                moment = time.monotonic()
                if line.startswith("I: Sending Store Request"):
                    file = self.files[len(self.transfers)]
                    self.transfers[file] = Transfer(begun=moment)
                elif "Received Store Response" in line:
                    status = line.partition("(")[2].rstrip(")\n")
                    self.transfers[file] = replace(self.transfers[file], answered=moment, status=status)
