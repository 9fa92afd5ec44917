"""A running cxrd is watched: what it does is counted, what is wrong is said, and dashboard and alerts ask for no other
numbers.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from dicom_io.network.storage_scu import Peer, echo
from tests.support.peers import Receiver, chest, receiving, send, wait_for
from tests.support.raw_peer import RawPeer
from tests.support.scrapes import Series, free_ports, get, labels, scrape
from worker.engines.daemon import Daemon
from worker.engines.supervisor import Supervisor
from worker.engines.watch import PORTS, Watch
from worker.settings import Settings

DOCKER = Path(__file__).resolve().parents[3] / "docker"
DOCS = DOCKER.parent / "docs"
ALERTS = yaml.safe_load((DOCKER / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((DOCKER / "grafana" / "cxrd.json").read_text())


class Watched:
    """A daemon and the watch over each of its parts, and over a supervisor that has started nothing."""

    def __init__(self, folder: Path, receiver: Receiver) -> None:
        self.base = free_ports(len(PORTS))
        pacs = {"name": "pacs", "host": "127.0.0.1", "port": receiver.port, "ae_title": "RECEIVER"}
        self.settings = Settings.model_validate(
            {
                "scp": {"port": 0},
                "storage": {"folder": folder / "data", "min_free_mb": 0},
                "outbox": {"retry_first": 0.1, "retry_max": 0.5},
                "model": {"out_of_distribution": "warn"},
                "worker": {"threads": 1},
                "health": {"port": self.base},
                "destinations": [pacs],
            }
        )
        self.receiver = receiver
        self.daemon = Daemon(self.settings)
        self.parts: list[Any] = [self.daemon.receiver, self.daemon.workers, self.daemon.couriers]
        apart = self.settings.storage.model_copy(update={"folder": folder / "apart"})
        self.supervisor = Supervisor(self.settings.model_copy(update={"storage": apart}), None)
        self.daemon.workers._drift.LASTS = 0.0
        self.watches = [Watch(each, self.settings, each.ledger, each.check_store) for each in self.parts]
        self.watches.append(Watch(self.supervisor, self.settings))

    def start(self) -> None:
        for watch in self.watches:
            watch.start()
        self.daemon.start()
        for watch in self.watches:
            watch.started()

    def stop(self) -> None:
        for watch in self.watches:
            watch.stop()
        self.daemon.stop()
        self.supervisor._lock.close()

    def port(self, role: str) -> int:
        return self.base + PORTS[role]

    def scrape(self, role: str) -> Series:
        return scrape(self.port(role))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with receiving() as receiver, ExitStack() as stack:
        running = Watched(tmp_path_factory.mktemp("watched"), receiver)
        stack.callback(running.stop)
        running.start()
        yield running


@pytest.fixture(scope="module")
def exported(watched: Watched) -> dict[str, set[str]]:
    """Return the names of all series of all processes, each with the names of its labels."""
    sent = ("cxrd_deliveries_total", "pacs", "sent")
    before = watched.scrape("deliver").get(sent, 0.0)
    assert send(watched.daemon.port, [chest("named")]) == [0x0000]
    wait_for(lambda: watched.scrape("deliver").get(sent, 0.0) >= before + 3)
    names: dict[str, set[str]] = {}
    for role in PORTS:
        for name, its_labels in labels(watched.port(role)).items():
            names.setdefault(name, set()).update(its_labels)
    return names


def gained(before: Series, after: Series, name: str) -> dict[tuple[str, ...], float]:
    """Return what the series of a name have gained."""
    pairs = {key[1:]: value - before.get(key, 0.0) for key, value in after.items() if key[0] == name}
    return {key: value for key, value in pairs.items() if value}


def test_every_process_is_alive_and_ready(watched: Watched) -> None:
    for role in ("receive", "work", "deliver"):
        assert get(watched.port(role), "/healthz") == get(watched.port(role), "/readyz") == (200, "ok\n")
    assert get(watched.port("serve"), "/healthz") == (200, "ok\n")
    missing = "receive does not run\nwork does not run\ndeliver does not run\n"
    assert get(watched.port("serve"), "/readyz") == (503, missing)


def test_each_end_of_an_association_is_counted_by_its_cause(watched: Watched) -> None:
    before = watched.scrape("receive")
    with RawPeer(watched.daemon.port) as peer:
        peer.send(b"GET / HTTP/1.1")
        peer.answer()
    with RawPeer(watched.daemon.port) as peer:
        peer.associate()
    echo(Peer("127.0.0.1", watched.daemon.port, "CXRD", "MODALITY", timeout=10))

    def ends() -> dict[tuple[str, ...], float]:
        return gained(before, watched.scrape("receive"), "cxrd_associations_total")

    wait_for(lambda: sum(ends().values()) == 3)
    assert ends() == {("malformed",): 1, ("lost",): 1, ("released",): 1}


def test_an_image_is_counted_on_its_way(watched: Watched) -> None:
    before = watched.scrape("work")
    assert send(watched.daemon.port, [chest("counted")], calling="MODALITY") == [0x0000]
    assert send(watched.daemon.port, [chest("counted")], calling="MODALITY") == [0x0000]
    assert send(watched.daemon.port, [chest("left out", BodyPartExamined="HAND")], calling="MODALITY") == [0x0000]

    def done(name: str) -> float:
        return sum(gained(before, watched.scrape("work"), name).values())

    wait_for(lambda: done("cxrd_deliveries_total") == 3 and done("cxrd_not_analysed_total") == 1)
    after = watched.scrape("work")  # the three are one process here, and share what is counted
    assert gained(before, after, "cxrd_received_total") == {("MODALITY",): 2}
    assert gained(before, after, "cxrd_received_again_total") == {(): 1}
    assert gained(before, after, "cxrd_received_bytes_total")[()] > 2000
    assert gained(before, after, "cxrd_not_analysed_total") == {("rules",): 1}
    assert sum(gained(before, after, "cxrd_answered_total").values()) == 1
    assert gained(before, after, "cxrd_deliveries_total") == {("pacs", "sent"): 3}
    stages = gained(before, after, "cxrd_stage_seconds_count")
    assert {key[0] for key in stages} == {
        "receipt", "queue", "read", "render", "inference", "compose", "objects", "ledger", "answer", "delivery"
    }  # fmt: skip
    # Once: a header is enough to leave an image out.
    assert (stages["receipt",], stages["read",], stages["answer",], stages["delivery",]) == (3, 1, 1, 3)


def test_an_image_that_cannot_be_read_is_counted_by_its_cause(watched: Watched) -> None:
    before = watched.scrape("work")
    nothing = chest("damaged")
    nothing.PixelData = bytes(len(nothing.PixelData))  # what is cut short is refused at receipt
    assert send(watched.daemon.port, [nothing]) == [0x0000]
    wait_for(lambda: gained(before, watched.scrape("work"), "cxrd_failed_total"))
    assert gained(before, watched.scrape("work"), "cxrd_failed_total") == {("pixels",): 1}
    wait_for(lambda: watched.scrape("receive")["cxrd_failed_images",] >= 1)


def test_a_refused_object_is_counted_by_its_status(watched: Watched) -> None:
    before = watched.scrape("receive")
    lacking = chest("lacking")
    del lacking.StudyInstanceUID
    assert send(watched.daemon.port, [lacking]) == [0xA900]
    assert gained(before, watched.scrape("receive"), "cxrd_refused_total") == {("0xA900",): 1}


def test_a_destination_that_is_down_shows_and_comes_back(watched: Watched) -> None:
    port = watched.receiver.port
    watched.receiver.stop()
    send(watched.daemon.port, [chest("waits")])
    wait_for(lambda: watched.scrape("deliver")["cxrd_destination_down", "pacs"] == 1)
    series = watched.scrape("receive")
    assert series["cxrd_destination_down", "pacs"] == 1
    assert series["cxrd_queue_tasks", "pacs", "deliver"] >= 1
    assert get(watched.port("deliver"), "/readyz") == (200, "ok\n")  # its work is to wait
    watched.receiver.start(port)
    wait_for(lambda: watched.scrape("deliver")["cxrd_destination_down", "pacs"] == 0)


def test_a_disk_below_its_limit_shows(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched.daemon.receiver.blobs, "_min_free", 10**18)
    receive = watched.port("receive")
    wait_for(lambda: get(receive, "/readyz")[0] == 503)
    assert get(receive, "/readyz")[1] == "less than 1000000000000 MB would be free in the storage folder\n"
    assert get(receive, "/healthz") == (200, "ok\n")
    monkeypatch.undo()
    wait_for(lambda: get(receive, "/readyz")[0] == 200)


def silence(answer: tuple[int, str]) -> int:
    """Return for how many seconds the worker has not gone on; 0 where nothing is said of it."""
    status, body = answer
    match = re.search(r"^thread worker-0 has not gone on for (\d+) s$", body, re.MULTILINE)
    assert (status == 503) is (body != "ok\n")
    return int(match[1]) if match else 0


def test_a_worker_that_is_stuck_shows(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = watched.daemon.workers
    health = watched.settings.health.model_copy(update={"stuck_seconds": 0.2})
    worker = watched.settings.worker.model_copy(update={"reanalysis_pause": 0.0})
    impatient = watched.settings.model_copy(update={"health": health, "worker": worker})
    go = threading.Event()
    monkeypatch.setattr(workers, "_round", lambda: go.wait(60) and False)
    try:
        workers._wake()
        monkeypatch.setattr(workers, "settings", impatient)
        wait_for(lambda: silence(get(watched.port("work"), "/healthz")) >= 2)  # an idle one turns once a second
    finally:
        go.set()
    monkeypatch.undo()
    wait_for(lambda: get(watched.port("work"), "/healthz") == (200, "ok\n"))


def test_a_pause_and_a_missing_model_show(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    workers = watched.daemon.workers
    workers._pause.trip("the model's engine failed")
    assert "work pauses: the model's engine failed\n" in get(watched.port("work"), "/readyz")[1]
    assert watched.scrape("work")["cxrd_paused", "work"] == 1
    workers._pause.clear()
    serving = workers.serving
    monkeypatch.setattr(workers, "_open_model", lambda: False)
    monkeypatch.setattr(workers, "serving", None)
    assert get(watched.port("work"), "/readyz") == (503, "no model is loaded\n")
    series = watched.scrape("work")
    assert series["cxrd_model_loaded",] == 0
    assert not [key for key in series if key[0] == "cxrd_model_info"]
    monkeypatch.undo()
    assert workers.serving is serving


def test_a_destination_whose_settings_cannot_be_followed_shows(watched: Watched) -> None:
    couriers = watched.daemon.couriers
    couriers.not_served["pacs"] = "ca_file is missing"
    assert get(watched.port("deliver"), "/readyz") == (503, "destination pacs is not served: ca_file is missing\n")
    assert watched.scrape("deliver")["cxrd_destination_served", "pacs"] == 0
    couriers.not_served.clear()


def test_a_ledger_that_takes_nothing_shows(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched.daemon.receiver._heartbeat, "fault", "the ledger is locked by another process")
    assert get(watched.port("receive"), "/readyz") == (503, "the ledger is locked by another process\n")


# ---- what asks for these numbers -------------------------------------------------------------------------------------

_WORDS = set("and or unless by without on ignoring group_left group_right offset bool".split())  # noqa: SIM905
_PROMETHEUS_OWN = {"up"}


def metric_names(expression: str) -> dict[str, set[str]]:
    """Return the metrics that an expression of PromQL asks for, each with the labels that it selects by."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", expression)
    bare = re.sub(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", bare)
    bare = re.sub(r"\[[^\]]*\]|\boffset\s+\w+", " ", bare)
    names: dict[str, set[str]] = {}
    for name, selector in re.findall(r"([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?!\w|\s*\()(\{[^}]*\})?", bare):
        if selector or f"{name}(" not in bare.replace(" ", ""):
            names.setdefault(name, set()).update(re.findall(r"(\w+)\s*(?:=|!)", selector))
    inside = {label for found in names.values() for label in found}
    return {name: found for name, found in names.items() if name not in _WORDS | inside | _PROMETHEUS_OWN}


def expressions() -> list[str]:
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return panels + [rule["expr"] for rule in ALERTS]


@pytest.mark.parametrize(
    ("expression", "names"),
    [
        ('max(a{b="c_d",e=~"f"}) == 0 or absent(g{h!="i"})', {"a": {"b", "e"}, "g": {"h"}}),
        ("histogram_quantile(0.95, sum by (le, stage) (rate(a_bucket[5m])))", {"a_bucket": set()}),
        ("max(a) > min(a offset 1h) or sum(increase(b_total[1h])) > 0", {"a": set(), "b_total": set()}),
        ("x * on (instance) group_left (role) y", {"x": set(), "y": set()}),
        ("predict_linear(a[6h], 3 * 86400) < b", {"a": set(), "b": set()}),
        ("up == 0", {}),
    ],
)
def test_metrics_are_read_from_promql(expression: str, names: dict[str, set[str]]) -> None:
    assert metric_names(expression) == names


@pytest.mark.parametrize("expression", expressions())
def test_dashboard_and_alerts_ask_for_what_there_is(exported: dict[str, set[str]], expression: str) -> None:
    names = metric_names(expression)
    assert names
    for name, selected in names.items():
        assert name in exported
        assert selected <= exported[name] | {"job", "instance"}


def test_alerts_speak_of_what_they_keep(exported: dict[str, set[str]]) -> None:
    for rule in ALERTS:
        kept = {label for name in metric_names(rule["expr"]) for label in exported[name]} | {"instance"}
        assert set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"]))) <= kept


def test_every_metric_and_every_alert_is_documented(exported: dict[str, set[str]]) -> None:
    page = (DOCS / "operations.md").read_text()
    rows = re.findall(r"^\| ((?:`cxrd_\w+`(?:, )?)+) \|([^|]*)\|", page, re.MULTILINE)
    documented = {name: code(its_labels) for cell, its_labels in rows for name in code(cell)}
    histogram = {"cxrd_stage_seconds_bucket", "cxrd_stage_seconds_count", "cxrd_stage_seconds_sum"}
    own = {name: its for name, its in exported.items() if name.startswith("cxrd_") and name not in histogram}
    own |= {"cxrd_stage_seconds": {"stage"}, "cxrd_drift_psi": {"measure"}}  # that needs 50 images
    own |= {"cxrd_certificate_days_left": {"certificate"}}  # only with TLS
    own |= {"cxrd_audit_messages_waiting": set()}  # only with audit.syslog
    assert documented == own
    assert {name for name in code(page) if name.startswith("Cxrd")} == {rule["alert"] for rule in ALERTS}


def code(text: str) -> set[str]:
    """Return the single words of a text that stand there as code."""
    return set(re.findall(r"`(\w+)`", text))


def test_every_stage_is_documented(watched: Watched, exported: dict[str, set[str]]) -> None:
    assert exported
    rows = (DOCS / "operations.md").read_text().split("| stage | from, to |\n")[1].split("\n\n")[0].splitlines()
    documented = {name for row in rows for name in code(row.split("|")[1])}
    assert documented == {key[1] for key in watched.scrape("work") if key[0] == "cxrd_stage_seconds_count"}


@pytest.mark.parametrize(
    ("words", "file"),
    [
        ("check rules", DOCKER / "prometheus" / "alerts.yml"),
        ("check config", DOCKER / "prometheus" / "prometheus.yml"),
        ("test rules", Path(__file__).with_name("alerts.yml")),
    ],
)
def test_prometheus_understands_the_rules_and_they_fire(words: str, file: Path) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    done = subprocess.run([program, *words.split(), file], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_asks_every_process() -> None:
    config = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    first = Settings().health.port
    assert job["static_configs"][0]["targets"] == [f"127.0.0.1:{first + place}" for place in PORTS.values()]
