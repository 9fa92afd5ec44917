"""Dependencies point one way: worker → dicom_io, modeltrain; modeltrain → what a radiograph and a finding are."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def imports(folder: str) -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                yield path.relative_to(ROOT).as_posix(), name


@pytest.mark.parametrize("folder", ["dicom_io", "modeltrain", "worker"])
def test_there_is_something_to_hold(folder: str) -> None:
    assert list(imports(folder))


def test_dicom_io_knows_nothing_of_models_databases_or_queues() -> None:
    forbidden = ("worker", "modeltrain", "torch", "torchvision", "sqlalchemy", "onnxruntime", "celery")
    assert [each for each in imports("dicom_io") if each[1].split(".")[0] in forbidden] == []


def test_modeltrain_knows_only_pixels_and_errors_of_dicom_io() -> None:
    allowed = tuple(f"dicom_io.{name}" for name in ("errors", "finding", "pixels", "radiograph"))
    bad = [
        each
        for each in imports("modeltrain")
        if each[1].split(".")[0] == "worker" or (each[1].startswith("dicom_io") and not each[1].startswith(allowed))
    ]
    assert bad == []


def test_serving_imports_no_torch() -> None:
    code = "import sys, worker.cli, worker.daemon, worker.offline, worker.demo; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_modules_stay_under_400_lines() -> None:
    folders = ("dicom_io", "modeltrain", "worker")
    long = [
        path for folder in folders for path in (ROOT / folder).rglob("*.py") if len(path.read_text().splitlines()) > 400
    ]
    assert long == []
