"""From images that arrived, and what readers say of them, to a new model; and what stops it on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from modeltrain.model.card import load_card, shipped_model
from tests.acceptance.program import Service, invoke, run
from tests.support.peers import chest, send, wait_for
from tests.support.printed import labelled
from tests.unit.modeltrain.toys import write_class

pytestmark = pytest.mark.slow
COUNT = 8


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path)
    made.start()
    yield made
    made.stop()


def test_readers_verdicts_become_a_model(service: Service, tmp_path: Path) -> None:
    images = [chest(f"r{i}", rows=80, cols=70, PatientID=f"patient-{i}") for i in range(COUNT)]
    send(service.port, images)
    wait_for(lambda: sum(row["status"] == "analysed" for row in service.findings()) == COUNT, 90)

    nobody = invoke("retrain", "--data", "AUDIT", "--out", tmp_path / "run", "-c", service.config)
    assert nobody.returncode == 2
    assert nobody.stderr.strip().splitlines()[-1].startswith("cxrd: the audit holds no reader's verdict yet")

    table = tmp_path / "verdicts.csv"
    lines = [f"{image.SOPInstanceUID},{'PNEUMONIA' if i % 2 else 'NORMAL'},jd" for i, image in enumerate(images)]
    table.write_text("\n".join(["sop_instance_uid,verdict,reader", *lines, "1.2.3.4,NORMAL,jd"]) + "\n")
    refused = invoke("feedback", "import", table, "-c", service.config)
    assert refused.returncode == 2
    assert f"row {COUNT + 2}: no image was received: 1.2.3.4; nothing was entered" in refused.stderr
    entered = invoke("feedback", "import", table, "--skip-bad", "-c", service.config)
    assert list(labelled(entered.stdout).values()) == [str(COUNT), str(COUNT), "1"], entered.stderr
    listed = invoke("feedback", "list", "--format", "json", "-c", service.config)
    assert len(json.loads(listed.stdout)) == COUNT
    names = ("--sop", images[0].SOPInstanceUID, "--verdict", "NORMAL", "--reader", "x")
    added = invoke("feedback", "add", *names, "-c", service.config)
    assert added.stdout == "Images with this verdict: 1\n"

    trained = run("retrain", "--data", "AUDIT", "--out", tmp_path / "run", "--epochs", 1, "-c", service.config)
    assert trained.returncode == 0, trained.stderr[-2000:]
    folder = tmp_path / "run" / "cxr-pneumonia-site-0.0.0"
    assert trained.stdout == f"Model: {folder}\n"
    card = load_card(folder)
    assert card.raw["data"]["layout"] == "the audit's confirmed findings"
    assert card.raw["training"]["began_with"]
    assert "patient-" not in json.dumps(card.raw)
    assert invoke("audit", "verify", "-c", service.config).returncode == 0

    answered = invoke("analyze", tmp_path / "data", "--out", tmp_path / "out", "--json", CXRD_MODEL__FOLDER=str(folder))
    first = json.loads(answered.stdout.splitlines()[0])
    assert {"out_of_distribution", "outlier", "prediction_set", "operating_point", "regions"} <= set(first)


def test_what_cannot_be_trained_on_is_said_in_one_line(tmp_path: Path) -> None:
    write_class(tmp_path / "one" / "NORMAL", ["a.png", "b.png"], opacity=False)
    (tmp_path / "one" / "PNEUMONIA").mkdir()
    (tmp_path / "list.csv").write_text("path,label\none/NORMAL/a.png,NORMAL\none/NORMAL/b.png,SICK\n")
    said = {
        "one": "holds no JPEG or PNG file",
        "list.csv": "row 3: label 'SICK' is neither NORMAL nor PNEUMONIA",
        "nowhere": "no such folder",
    }
    for name, words in said.items():
        refused = invoke("retrain", "--data", tmp_path / name, "--out", tmp_path / "run")
        assert refused.returncode == 2
        assert words in refused.stderr
        assert "Traceback" not in refused.stderr
        assert len(refused.stderr.strip().splitlines()) == 1
    other = invoke("retrain", "--data", tmp_path / "one", "--arch", "resnet34", "--out", tmp_path / "run")
    assert "--arch resnet34: cxr-pneumonia" in other.stderr
    assert load_card(shipped_model()).arch == "resnet18"
    assert not (tmp_path / "run").exists()
    assert np.isfinite(load_card(shipped_model()).threshold)


def test_a_recipe_or_a_teacher_that_will_not_do_is_named_before_an_image_is_read(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"storage:\n  folder: {tmp_path / 'storage'}\n")
    common = ("--data", tmp_path / "no-data", "--out", tmp_path / "run", "-c", config)
    shipped, scratch = load_card(shipped_model()).label, ("--from", "scratch")
    for options, said in (
        (("--recipe", "standardized"), f"recipe standardized: {shipped} looks at the lungs alone; use recipe lungs"),
        (("--teacher", tmp_path / "none"), "recipe lungs: takes no teacher (--recipe standardized does)"),
        (("--recipe", "teacher"), "recipe teacher begins with published weights: use --from scratch"),
        ((*scratch, "--recipe", "standardized"), "recipe standardized: needs a teacher (cxrd retrain --teacher)"),
        (
            (*scratch, "--recipe", "standardized", "--teacher", tmp_path / "none"),
            f"{tmp_path / 'none'}: not a file of a training run",
        ),
    ):
        refused = invoke("retrain", *options, *common)
        assert refused.returncode == 2
        assert refused.stderr.strip().splitlines()[-1].startswith(f"cxrd: {said}"), refused.stderr
    assert not (tmp_path / "run").exists()
