"""The command line as a person meets it: what it prints, what it says when something is wrong, and its exit codes."""

from __future__ import annotations

import csv
import json
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
import yaml

from dicom_io.objects.common import encode
from dicom_io.objects.radiograph import radiograph
from modeltrain.model.card import shipped_model
from tests.acceptance.program import Service, invoke, run
from tests.support.peers import chest, receiving, send, wait_for
from tests.support.shared import shared
from worker.demo.phantom import draw


def one_line(stderr: str) -> str:
    """Return what was said, which must be one line."""
    lines = stderr.strip().splitlines()
    assert len(lines) == 1, stderr
    assert "Traceback" not in stderr
    return lines[0]


def test_help_teaches() -> None:
    said = run("--help", COLUMNS="120")
    assert said.returncode == 0
    for word in ("serve", "analyze", "check", "audit", "redeliver", "demo", "train", "evaluate", "not for diagnosis"):
        assert word in said.stdout
    for command in ("serve", "analyze", "check", "redeliver", "retry", "demo", "train", "evaluate", "retrain", "drift"):
        assert invoke(command, "--help").returncode == 0


def test_analyze_answers_for_each_file(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "good.dcm").write_bytes(encode(chest("good", rows=300, cols=260)))
    (folder / "lateral.dcm").write_bytes(encode(chest("lateral", ViewPosition="LL")))
    (folder / "text.dcm").write_text("this is no DICOM object, only a text that says so at some length")
    (folder / "empty.dcm").write_bytes(b"")
    truncated = chest("truncated")
    truncated.PixelData = truncated.PixelData[:200]
    (folder / "truncated.dcm").write_bytes(encode(truncated))
    bomb = chest("bomb")
    bomb.Rows = bomb.Columns = 65535
    (folder / "bomb.dcm").write_bytes(encode(bomb))
    bare = chest("bare")
    del bare.Rows
    (folder / "bare.dcm").write_bytes(encode(bare))
    cv2.imwrite(str(folder / "picture.png"), draw(seed=3, rows=300, cols=280))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    (folder / "sub").mkdir()
    shutil.copy(folder / "good.dcm", folder / "sub" / "good.dcm")
    said = run("analyze", folder, "--out", tmp_path / "out", "--json")
    assert said.returncode == 2
    answers = {str(Path(each["file"]).relative_to(folder)): each for each in map(json.loads, said.stdout.splitlines())}
    expected = {
        "good.dcm": "analysed",
        "sub/good.dcm": "analysed",
        "picture.png": "analysed",
        "lateral.dcm": "not_analysed",
        "text.dcm": "failed",
        "empty.dcm": "failed",
        "truncated.dcm": "failed",
        "bomb.dcm": "failed",
        "bare.dcm": "failed",
        "broken.png": "failed",
    }
    assert {name: each["status"] for name, each in answers.items()} == expected
    keys = {"file", "status", "reason", "answer", "caution", "probability", "threshold", "score", "model", "outputs"}
    assert all(keys <= set(each) for each in answers.values())
    outputs = [path for each in answers.values() for path in each["outputs"]]
    assert len(outputs) == len(set(outputs)) == 12
    for each in answers.values():
        assert bool(each["reason"]) is (each["status"] != "analysed")
        for path in each["outputs"]:
            if path.endswith(".png"):
                assert np.asarray(cv2.imread(path)).std() > 10
            else:
                dataset = pydicom.dcmread(path)
                kinds = {".sr.dcm": "SR", ".pr.dcm": "PR"}
                assert dataset.Modality == kinds.get(path[-7:], "OT")
                if dataset.Modality == "OT":
                    assert dataset.SOPClassUID == "1.2.840.10008.5.1.4.1.1.7"
                    assert dataset.pixel_array.std() > 10
    assert len(said.stderr.strip().splitlines()) == 6


def test_analyze_prints_a_table_for_a_person(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "picture.png"), draw(seed=3, rows=300, cols=280))
    said = invoke("analyze", tmp_path / "picture.png", "--out", tmp_path / "out")
    assert said.returncode == 0
    for word in ("picture.png", "probability", "answer", "analysed", "Not for diagnosis"):
        assert word in said.stdout


def test_analyze_tells_which_results_could_not_be_made(tmp_path: Path) -> None:
    bare = chest("bare", rows=300, cols=260)
    del bare.SeriesInstanceUID
    (tmp_path / "bare.dcm").write_bytes(encode(bare))
    good = tmp_path / "good.dcm"
    good.write_bytes(encode(chest("good", rows=300, cols=260)))
    asked = ("analyze", tmp_path / "bare.dcm", good, "--out", tmp_path / "out")
    answer, whole = map(json.loads, invoke(*asked, "--json").stdout.splitlines())
    assert (answer["status"], answer["reason"]) == ("analysed", "")
    lacking = "the source lacks SeriesInstanceUID"
    assert answer["left_out"] == {"presentation-state": lacking, "structured-report": lacking}
    assert whole["left_out"] == {}
    table = invoke(*asked)
    assert table.returncode == 0
    for word in ("analysed", "no presentation-state", "no structured-report", "SeriesInstanceUID"):
        assert word in table.stdout


def test_the_same_input_gives_the_same_probability_as_picture_and_as_dicom(tmp_path: Path) -> None:
    grey = draw(seed=5, rows=500, cols=460, opacity=True)
    cv2.imwrite(str(tmp_path / "a.png"), grey)
    (tmp_path / "b.dcm").write_bytes(encode(radiograph(grey, uid_seed="same")))
    said = invoke("analyze", tmp_path / "a.png", tmp_path / "b.dcm", "--out", tmp_path / "out", "--json")
    first, second = (json.loads(line)["score"] for line in said.stdout.splitlines())
    assert first == pytest.approx(second, abs=0.1)


@pytest.mark.parametrize("engine", ["onnx", "torch"])
def test_both_engines_answer_alike(tmp_path: Path, engine: str) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), draw(seed=5, rows=500, cols=460, opacity=True))
    asked = ("analyze", tmp_path / "a.png", "--out", tmp_path / "out", "--json")
    said = invoke(*asked, CXRD_MODEL__ENGINE=engine, CXRD_MODEL__PRECISION="fp32")
    reference = invoke(*asked, CXRD_MODEL__PRECISION="fp32")
    assert json.loads(said.stdout)["score"] == pytest.approx(json.loads(reference.stdout)["score"], abs=1e-2)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["analyze", "nowhere.dcm"], "nowhere.dcm: no such file or folder"),
        (["analyze", "empty"], "empty: no files in it"),
        (["serve", "-c", "nowhere.yaml"], "nowhere.yaml: No such file or directory"),
        (["serve", "-c", "broken.yaml"], "broken.yaml:2: scp.prt: unknown setting"),
        (["check", "-c", "binary.yaml"], "binary.yaml: not a text file in UTF-8"),
        (["audit", "show", "17"], "17: no received image has this number or UID"),
        (["audit", "list", "--since", "yesterday"], "yesterday: not a time"),
        (["audit", "export", "x.txt"], "x.txt: name a file that ends in .csv or .json"),
        (["evaluate", "--data", "empty", "--out", "o"], "empty"),
        (["train", "--data", "empty", "--out", "o"], "empty"),
        (["demo", "--images", "empty"], "empty: no files in it"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.yaml").write_text("scp:\n  prt: 1\n")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    result = invoke(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert said in one_line(result.stderr)


def test_a_missing_or_tampered_model_is_one_line(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(shipped_model(), model)
    picture = tmp_path / "a.png"
    cv2.imwrite(str(picture), draw())
    raw = bytearray((model / "model.onnx").read_bytes())
    raw[len(raw) // 2] ^= 1
    (model / "model.onnx").write_bytes(raw)
    for folder, word in [(model, "model.onnx"), (tmp_path / "gone", "gone")]:
        # `cxrd serve` takes images in all the same: tests/acceptance/test_processes.py
        said = invoke("analyze", picture, "--out", tmp_path / "o", cwd=tmp_path, CXRD_MODEL__FOLDER=str(folder))
        assert said.returncode == 2
        assert word in one_line(said.stderr)
        checked = invoke("check", cwd=tmp_path, CXRD_MODEL__FOLDER=str(folder), CXRD_STORAGE__MIN_FREE_MB="0")
        assert checked.returncode == 2
        assert any(line.startswith("FAIL  model:") for line in checked.stdout.splitlines())


def test_check_says_what_is_well_and_what_is_not(serve: Callable[..., Service]) -> None:
    with receiving() as receiver:
        good = {"name": "good", "host": "127.0.0.1", "port": receiver.port, "ae_title": "RECEIVER"}
        service = serve(destinations=[good])
        said = run("check", "-c", service.config)
        assert said.returncode == 0, said.stdout
        names = [line[6:].split(":")[0] for line in said.stdout.splitlines()]
        assert names == [
            "configuration", "model", "disk", "database", "images", "deliveries", "processes", "port",
            "destination good",
        ]  # fmt: skip
        assert all(line.startswith("ok ") for line in said.stdout.splitlines())
        closely = invoke("check", "good", "-c", service.config)
        assert closely.returncode == 0, closely.stdout
        for words in (
            "answers C-ECHO",
            "Secondary Capture Image Storage: Explicit VR Little Endian",
            "Comprehensive 3D SR Storage: ",
            "storage commitment: not offered",
            "query (C-FIND): not offered",
        ):
            assert words in closely.stdout
        stored = invoke("check", "good", "--store", "-c", service.config)
        assert "a test object of patient CXRD-CHECK is answered with 0x0000" in stored.stdout
        assert [str(each.PatientID) for each in receiver.objects] == ["CXRD-CHECK"]
        assert one_line(invoke("check", "--store", "-c", service.config).stderr).endswith(
            "needs the NAME of a destination"
        )
    with receiving(["1.2.840.10008.5.1.4.1.1.7"]) as narrow:
        service = serve(destinations=[good | {"port": narrow.port}])
        said = invoke("check", "good", "-c", service.config)
        assert said.returncode == 2
        assert "FAIL  destination good: Comprehensive 3D SR Storage: not accepted" in said.stdout
    with socket.create_server(("127.0.0.1", service.port)):
        said = invoke("check", "-c", service.config)
    assert said.returncode == 2
    bad = [line for line in said.stdout.splitlines() if line.startswith("FAIL")]
    assert len(bad) == 2
    assert f"port: 127.0.0.1:{service.port}: Address already in use; no answer to our C-ECHO there" in bad[0]
    assert "destination good: 127.0.0.1" in bad[1]
    assert "cannot be reached" in bad[1]
    assert "not in the configuration" in invoke("check", "other", "-c", service.config).stdout
    service.start()
    assert f"ok    port: CXRD is running on 127.0.0.1:{service.port}" in invoke("check", "-c", service.config).stdout
    service.stop()
    assert "FAIL  processes: none is running; start cxrd serve" in invoke("check", "-c", service.config).stdout


def test_a_taken_port_is_one_line(serve: Callable[..., Service]) -> None:
    service = serve()
    with socket.create_server(("127.0.0.1", service.port)):
        said = run("serve", "-c", service.config)
    assert said.returncode == 2
    ours = [line for line in said.stderr.splitlines() if line.startswith("cxrd:")]  # the rest is the log
    assert ours == [f"cxrd: scp: cannot listen on 127.0.0.1:{service.port}: Address already in use"]


def test_the_audit_answers(tmp_path: Path, serve: Callable[..., Service]) -> None:
    with receiving() as receiver:
        receiver.answers = [0xC000]
        pacs = {"name": "pacs", "host": "127.0.0.1", "port": receiver.port, "ae_title": "RECEIVER"}
        service = serve(destinations=[pacs], results={"kinds": ["secondary-capture"]})
        service.start()
        send(service.port, [chest("audit-1", AccessionNumber="A1")], calling="CR1")
        wait_for(lambda: service.events("delivery_failed"), 30)
        send(service.port, [chest("audit-2", AccessionNumber="A2", ViewPosition="LL")], calling="CR2")
        wait_for(lambda: len(service.events("processed")) == 2, 30)
        assert [row["accession_number"] for row in service.findings("--undelivered")] == ["A1"]
        assert [row["accession_number"] for row in service.findings("--status", "not_analysed")] == ["A2"]
        assert [row["accession_number"] for row in service.findings("--from", "CR2", "--since", "1h")] == ["A2"]
        assert service.findings("--until", "1h") == []
        nowhere = invoke("redeliver", "--to", "elsewhere", "-c", service.config)
        assert nowhere.returncode == 2
        assert one_line(nowhere.stderr) == "cxrd: elsewhere: no such destination; there are: pacs"
        assert invoke("redeliver", "-c", service.config).stdout == "Deliveries due now: 1\n"
        wait_for(lambda: len(receiver.objects) == 1, 30)
        service.stop()
    shown = json.loads(run("audit", "show", "1", "-c", service.config).stdout)
    assert [each["kind"] for each in shown["events"]] == [
        "received", "analysed", "delivery_failed", "redelivery", "delivered",
    ]  # fmt: skip
    assert shown["deliveries"][0]["status"] == "0x0000"
    for column in ("started_at", "analysed_at", "finished_at", "model", "model_sha256", "score", "patient_key"):
        assert shown["finding"][column] not in (None, ""), column
    assert "A2" in invoke("audit", "list", "-c", service.config).stdout
    for name in ("x.csv", "x.json"):
        assert invoke("audit", "export", tmp_path / name, "-c", service.config).returncode == 0
    with (tmp_path / "x.csv").open() as handle:
        assert len(list(csv.DictReader(handle))) == len(json.loads((tmp_path / "x.json").read_text())) == 2
    asked = subprocess.run(
        ["sqlite3", tmp_path / "data" / "ledger.sqlite", "SELECT accession_number FROM findings WHERE delivered = 1"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert asked.stdout == "A1\n"


def test_the_demo_shows_findings_and_where_they_lie(tmp_path: Path) -> None:
    said = run("demo", "--out", tmp_path / "demo")
    assert said.returncode == 0, said.stderr
    rows = [line for line in said.stdout.splitlines() if "phantom-" in line]
    assert len(rows) == 6
    for row in rows:
        assert (" flagged " if "-opacity" in row else " not flagged ") in row.replace("│", " ")
    assert len(list((tmp_path / "demo" / "pictures").glob("*.png"))) == 6
    assert len(list((tmp_path / "demo" / "objects").glob("*.dcm"))) == 18
    for word in ("pictures", "objects", "ledger.sqlite", "Not for diagnosis"):
        assert word in said.stdout


def test_the_demo_takes_a_folder_of_radiographs(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted(shared("data", "kermany224", "train", "PNEUMONIA").iterdir())[:3]:
        shutil.copy(path, images)
    shutil.copy(shared("data", "dicom_chest", "cr_mono1_jpeg_baseline.dcm"), images)
    said = run("demo", "--images", images, "--out", tmp_path / "demo")
    assert said.returncode == 0, said.stderr
    assert len(list((tmp_path / "demo" / "pictures").glob("*.png"))) == 4


def test_the_shipped_config_is_what_serve_starts_with(tmp_path: Path) -> None:
    said = run("check", cwd=tmp_path, CXRD_STORAGE__MIN_FREE_MB="0", CXRD_SCP__PORT="0")
    assert said.returncode == 0, said.stdout
    assert (tmp_path / "data" / "ledger.sqlite").exists()
    assert yaml.safe_load(Path("config.yaml").read_text())["scp"]["host"] == "127.0.0.1"
