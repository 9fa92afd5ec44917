"""What modalities and nodes really send, as public bug reports tell it: each case ends as `shared/cases` says.

`make_cases.py` there writes the files; the scripts named NN_net talk to a node. Further rows go into the tables here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from io import BytesIO
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pydicom
import pytest
from pydicom import Dataset

from dicom_io.header.copied import COPIED
from dicom_io.header.reading import read_dataset
from dicom_io.pixels.render import render
from tests.integration.deliver.test_webhook import Listener, listener
from tests.integration.receive.test_intake import Station
from tests.support import mllp
from tests.support.models import tiny
from tests.support.peers import send, wait_for
from tests.support.shared import shared
from tests.support.tools import tool
from tests.unit.worker.results.test_result_set import answered
from worker.destination_settings import Kind
from worker.engines.daemon import Daemon
from worker.engines.offline import FileOutcome, analyze
from worker.inference.analyzer import Reader
from worker.ledger.queries import Filter, findings
from worker.settings import ModelSettings, Results, Settings

__all__ = ["listener"]  # a fixture

# ---- the tables ------------------------------------------------------------------------------------------------------

FAILED = {
    "05_constant0": "there is nothing to read: the image has no contrast",
    "14_cut_file": r"the object is cut short at \d+ of \d+ bytes",
    "14_cut_stream*": "the object is cut short: .* without an end",
    "21_80_sof3": "could not be decoded",
    "21_90_sof0": "not a JPEG 2000 code stream",
    "25_two": "2 frames",
    "29_1x1": "there is nothing to read: 1 × 1 pixels",
    "29_2x3000": "there is nothing to read: 2 × 3000 pixels",
    "29_3000x2": "there is nothing to read: 3000 × 2 pixels",
    "29_7x7": "there is nothing to read: 7 × 7 pixels",
    "37_bitsstored0": "Bits Stored",
    "37_highbit10": "do not fit",
    "38_rle_under_native": "encapsulated pixel data under a native transfer syntax",
}
"""Cases that fail, and why. All others are analysed."""
AS_STATED = ("37_highbit15", "37_bits10_values12")
"""Cases whose header says where the values lie, which is followed (PS3.5 8.1.1): their references differ."""
LOSSY = {"08_ext_bits10": 0.04, "21_*_sof0": 0.005, "41_voi_8bit_packed": 0.004}
"""By how much cases that lose something may differ from their references; the others by half a level of 256."""
REMARKS = {
    "39_slope0": "Rescale Slope 0 is taken as 1",
    "17_none_latin1": "its texts are not in a character set that it declares; results carry them as they came",
    "17_foobar": "its texts are not in a character set that it declares; results carry them as they came",
    "17_latin_says_utf8": "its texts are not in a character set that it declares; results carry them as they came",
}
"""What the log says of a case."""
LINES = [
    ("30", "unknown_sub_item", "AC .*RSP '0x0'"),
    ("30", "version_20chars", "AC .*RSP '0x0'"),
    ("30", "nul_padded_calling", "AC .*RSP '0x0'"),
    ("30", "nul_padded_called", "AC .*RSP '0x0'"),
    ("30", "latin1_calling", "AC .*RSP '0x0'"),
    ("30", "max_pdu_none", "AC .*RSP '0x0'"),
    ("30", "all_spaces_calling", "RJ"),
    ("31", "sop_66", "RSP '0x(a900|c000)' .*release RELRP"),
    ("31", "sop_66_set_only", "RSP '0x(a900|c000)' .*release RELRP"),
    ("31", "sop_64", "RSP '0x0' .*release RELRP"),
    ("31", "leading_zero_sop", "RSP '0x0' .*release RELRP"),
    ("32", "first", "0x0"),
    ("32", "same again", "0x0"),
    ("32", "corrected name", "0x0"),
    ("32", "other series", "0x0"),
    ("32", "other patient's study", "0x0"),
    ("32", "other pixels", "0x0"),
    ("33", "grp2_same", "RSP '0x0'"),
    ("33", "grp0", "RSP '0x0'"),
    ("33", "zeros_tail", "RSP '0x0'"),
    ("33", "j2k_ok", "RSP '0x0'"),
    ("33", "j2k_nodelim", "RSP '0x0'"),
    ("33", "j2k_zeros", "RSP '0x0'"),
    ("33", "j2k_cut", "RSP '0xc000' .*release RELRP"),
    ("33", "native_cut", "RSP '0xc000' .*release RELRP"),
    ("33", "header_cut", "RSP '0xc000' .*release RELRP"),
    ("33", "header_cut_mid", "RSP '0xc000' .*release RELRP"),
    ("33", "empty_set", "RSP '0xa900' .*release RELRP"),
]
"""What a script says of a case that it sends to a node: script, label, and the rest of the line."""
VERSIONS = 5
"""Contents that script 32 sends under one SOP Instance UID: each is kept."""

# ---- the cases -------------------------------------------------------------------------------------------------------


def run(script: Path, folder: Path, **environment: str) -> str:
    """Run a script of the cases; return what it says."""
    more = {"CASES_OUT": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, script],
        env=os.environ | more | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The cases by name, with their references."""
    tool("dcmcjpeg")  # which writes some of them
    folder = tmp_path_factory.mktemp("cases")
    run(shared("cases", "make_cases.py"), folder)
    files = {path.stem: path for path in sorted(folder.glob("*.dcm"))}
    assert len(files) > 250
    for name in (*FAILED, *AS_STATED, *LOSSY, *REMARKS):
        assert any(fnmatch(each, name) for each in files), name
    return files


@pytest.fixture(scope="module")
def outcomes(
    cases: dict[str, Path], reader: Reader, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, FileOutcome]:
    """What becomes of each case, by its name; drawn chests may be unlike those that the model was made for."""
    folder = tmp_path_factory.mktemp("outcomes")
    files = [path for name, path in cases.items() if not name.endswith("__ref")]
    settings = Settings(
        model=ModelSettings.model_validate({"out_of_distribution": "warn"}),
        results=Results(kinds=("secondary-capture", "structured-report")),
    )
    return {Path(each.file).stem: each for each in analyze(files, folder, reader, settings)}


def expected_of(table: dict[str, Any], name: str) -> Any:
    return next((value for pattern, value in table.items() if fnmatch(name, pattern)), None)


def test_each_case_ends_as_it_should(outcomes: dict[str, FileOutcome]) -> None:
    assert len(outcomes) > 160
    wrong = {}
    for name, outcome in outcomes.items():
        reason = expected_of(FAILED, name)
        if reason is None:
            right = outcome.status == "analysed"
        else:
            right = outcome.status == "failed" and re.search(reason, outcome.reason) is not None
            right = right and outcome.finding is None and outcome.outputs == ()
        if not right:
            wrong[name] = (outcome.status, outcome.reason)
    assert wrong == {}


def test_each_picture_is_its_reference_s(cases: dict[str, Path]) -> None:
    differences = {}
    for name, path in cases.items():
        if f"{name}__ref" not in cases or name in AS_STATED or expected_of(FAILED, name):
            continue
        shown, meant = render(read_dataset(path)), render(read_dataset(cases[f"{name}__ref"]))
        assert shown.values.shape == meant.values.shape, name
        assert shown.blank == "", name
        differences[name] = float(np.abs(shown.values - meant.values).max())
    assert len(differences) > 90
    assert {k: d for k, d in differences.items() if d > (expected_of(LOSSY, k) or 0.5 / 255)} == {}


def test_what_is_read_otherwise_than_the_header_says_is_remarked(outcomes: dict[str, FileOutcome]) -> None:
    for name, remark in REMARKS.items():
        assert remark in outcomes[name].remarks
    undeclared = {name for name, each in outcomes.items() if any("character set" in remark for remark in each.remarks)}
    assert {name.split("_")[0] for name in undeclared} == {"17"}


def texts_of(dataset: Dataset) -> list[bytes]:
    """Return name, study description and the first request's description and ID, as they stand there."""
    requests = dataset.get("RequestAttributesSequence") or dataset.get("ReferencedRequestSequence")
    elements = [dataset.get_item(tag) for tag in (0x00100010, 0x00081030)]
    elements += [requests[0].get_item(tag) for tag in (0x00321060, 0x00401001)] if requests else []
    return [bytes(each.value or b"").rstrip(b" ") for each in elements if each is not None]


@pytest.mark.filterwarnings("ignore")  # pydicom's, about character sets
def test_texts_and_their_character_set_are_in_every_result_as_they_came(cases: dict[str, Path]) -> None:
    names = [name for name in cases if name.startswith("17_")]
    assert len(names) == 14
    for name in names:
        made = answered(read_dataset(cases[name]), kinds=get_args(Kind))
        original = pydicom.dcmread(cases[name])
        meant = texts_of(original)
        assert len(meant) == 4
        assert made.left_out == {}
        for result in made.results:
            again = pydicom.dcmread(BytesIO(result.data))
            assert texts_of(again) == meant, (name, result.kind)
            assert again.get("SpecificCharacterSet") == original.get("SpecificCharacterSet"), (name, result.kind)


@pytest.mark.parametrize("pattern", ["26_*", "27_[!p]*", "27_private", "27_procedure_nomeaning", "39_*"])
def test_results_are_valid_and_hold_nothing_hollow(cases: dict[str, Path], tmp_path: Path, pattern: str) -> None:
    names = [name for name in cases if fnmatch(name, pattern) and not name.endswith("__ref")]
    assert names
    for name in names:
        for result in answered(read_dataset(cases[name]), kinds=get_args(Kind)).results:
            path = tmp_path / "result.dcm"
            path.write_bytes(result.data)
            said = subprocess.run(
                [tool("dciodvfy"), path], capture_output=True, text=True, errors="replace", timeout=60, check=False
            )
            assert "Error" not in said.stderr, (name, result.kind, said.stderr)
            for keyword, items in copied_sequences(pydicom.dcmread(path)):
                assert items, (name, result.kind, keyword)
                for each in items:
                    groups = {tag.group for tag in each.keys()}  # noqa: SIM118 - a data set yields its elements
                    assert groups, (name, result.kind, keyword)
                    assert min(groups) >= 0x0008, (name, result.kind, keyword)


def copied_sequences(dataset: Dataset) -> Iterator[tuple[str, list[Dataset]]]:
    """Yield the sequences that are copied, each with its items."""
    for keyword in COPIED:
        if keyword.endswith("Sequence") and keyword in dataset:
            yield keyword, list(dataset[keyword].value)


# ---- through a node --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    made = Station(tmp_path_factory.mktemp("station"))
    yield made
    made.node.stop(grace=1)


@pytest.fixture(scope="module")
def lines(station: Station, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What the scripts say that talk to a node."""
    folder = tmp_path_factory.mktemp("lines")
    scripts = {name: next(shared("cases").glob(f"{name}_net_*.py")) for name in sorted({each[0] for each in LINES})}
    return {name: run(path, folder, PORT=str(station.node.port)).splitlines() for name, path in scripts.items()}


@pytest.mark.parametrize(("script", "label", "expected"), LINES, ids=lambda value: str(value).replace(" ", "-"))
def test_a_node_answers_as_it_should(lines: dict[str, list[str]], script: str, label: str, expected: str) -> None:
    (line,) = [each for each in lines[script] if re.match(rf"{re.escape(label)}\s", each)]
    assert re.match(rf"{re.escape(label)}\s+{expected}", line), line


def test_other_content_is_kept_beside_the_first(lines: dict[str, list[str]], station: Station) -> None:
    (line,) = [each for each in lines["32"] if each.startswith("first ")]
    rows = [row for row in findings(station.ledger, Filter()) if row["sop_instance_uid"] == line.split()[-1]]
    assert len(rows) == len({row["sha256"] for row in rows}) == VERSIONS


def test_of_an_image_without_an_image_nobody_hears(
    daemon: Callable[..., Daemon], cases: dict[str, Path], listener: Listener, tmp_path: Path
) -> None:
    with mllp.receiver() as ris:
        worker = daemon(
            [{"name": "hook", "webhook": listener.url}, {"name": "ris", "hl7": f"127.0.0.1:{ris.port}"}],
            model={"folder": tiny(tmp_path / "model", bias=60.0)},  # whatever is answered is flagged
        )
        nothing = [read_dataset(cases[name]) for name in ("05_constant0", "29_1x1")]
        picture = read_dataset(cases["28_tall_reference"])
        assert send(worker.port, [*nothing, picture]) == [0x0000] * 3
        wait_for(lambda: worker.ledger.counts().get("failed") == 2)
        wait_for(lambda: listener.got and ris.messages)
        rows = {row["sop_instance_uid"]: row for row in findings(worker.ledger, Filter())}
        for each in nothing:
            row = rows[each.SOPInstanceUID]
            assert (row["status"], row["probability"], row["answer"]) == ("failed", None, None)
            assert str(row["reason"]).startswith("there is nothing to read")
        assert (len(listener.got), len(ris.messages)) == (1, 1)
