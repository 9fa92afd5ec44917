"""A running worker takes up another model between two images; a candidate answers in its shadow."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from modeltrain.model.card import ONNX, load_card, shipped_model
from modeltrain.model.registry import version_name
from tests.acceptance.program import Service, invoke, run
from tests.support.models import variant
from tests.support.peers import chest, send, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def service(folder: Path) -> Iterator[Service]:
    candidate = variant(folder / "candidate", bias=3.0)
    made = Service(folder, model={"shadow": str(candidate)})
    made.start()
    yield made
    made.stop()


def answered(service: Service, count: int) -> bool:
    return len([row for row in service.findings() if row["status"] == "analysed"]) >= count


def test_a_promotion_is_taken_up_and_a_damaged_one_is_not(service: Service, folder: Path) -> None:
    shipped = load_card(shipped_model())
    send(service.port, [chest(f"a{i}") for i in range(3)])
    wait_for(lambda: answered(service, 3), 60)

    added = invoke("models", "add", folder / "candidate", "-c", service.config)
    name = added.stdout.strip()
    assert added.returncode == 0, added.stderr
    refused = invoke("models", "promote", name, "-c", service.config)
    assert refused.returncode == 2
    assert "name labelled radiographs by --data, or give --force and --reason" in refused.stderr
    promoted = run("models", "promote", name, "--force", "--reason", "a test", "-c", service.config)
    assert promoted.returncode == 0, promoted.stderr
    assert promoted.stdout.startswith(f"Serves from the next image on: {name}\n")
    send(service.port, [chest(f"b{i}") for i in range(3)])  # each of them, however many threads begin at once
    wait_for(lambda: answered(service, 6), 60)
    rows = sorted(service.findings(), key=lambda row: row["receipt_id"])
    candidate = load_card(folder / "candidate")
    assert [row["model_sha256"] for row in rows] == [shipped.sha256] * 3 + [candidate.sha256] * 3

    _shadow_told(service, rows)

    # What is promoted next is broken on disk: the model in service stays, and the log says why.
    second = variant(folder / "second", version="9.1.0", bias=1.0)
    other = invoke("models", "add", second, "-c", service.config).stdout.strip()
    assert invoke("models", "promote", other, "--force", "--reason", "x", "-c", service.config).returncode == 0
    (folder / "data" / "models" / other / ONNX).write_bytes(b"broken")
    send(service.port, [chest("c")])
    wait_for(lambda: answered(service, 7), 60)
    assert service.findings()[0]["model_sha256"] == candidate.sha256
    assert len(service.events("model_not_loaded")) == 1

    back = invoke("models", "rollback", version_name(shipped), "--reason", "broken", "-c", service.config)
    assert back.returncode == 0, back.stderr
    assert "damaged: " in invoke("models", "list", "-c", service.config).stdout
    send(service.port, [chest("d")])
    wait_for(lambda: answered(service, 8), 60)
    assert service.findings()[0]["model_sha256"] == shipped.sha256
    assert invoke("audit", "verify", "-c", service.config).returncode == 0


def _shadow_told(service: Service, rows: list[dict[str, object]]) -> None:
    """The first three images have an answer of the candidate beside them; the rows of the audit are complete."""
    wait_for(lambda: json.loads(_compared(service)) is not None, 30)
    told = invoke("models", "compare", "--shadow", "-c", service.config)
    assert re.search(r"9\.0\.0[^│]*│[^│]+│ 3 ", told.stdout), told.stdout
    assert len(rows) == 6


def _compared(service: Service) -> str:
    return invoke("models", "compare", "--shadow", "--format", "json", "-c", service.config).stdout or "null"
