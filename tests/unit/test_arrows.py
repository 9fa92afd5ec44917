"""Imports run one way, between the three packages, between their rooms and within each room, and never in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("dicom_io", "modeltrain", "worker")

# Each room may import the rooms that stand before it in its package, and modules that stand before it by name.
# `conformance` and `demo` stand late, since they show what all the others do; `cli` is the last.
ORDER = {
    "dicom_io": [
        *("errors", "fail_points", "durable", "memory", "uids", "finding", "audit_message"),
        *("header", "pixels", "objects", "network", "dicomweb"),
    ],
    "modeltrain": ["model", "data", "network", "training", "evaluation", "export"],
    "worker": [
        *(
            "defaults",
            "clock",
            "setting_messages",
            "config_file",
            "destination_settings",
            "scp_settings",
            "settings",
            "extras",
            "printable",
            "logs",
            "memory",
            "pulse",
            "syslog",
            "database",
            "queue",
            "metrics",
            "storage",
            "ledger",
        ),
        *("receive", "inference", "results", "deliver", "models", "health"),
        *("engines", "conformance", "demo", "cli", "__main__"),
    ],
}
# What a package may use of those below it; all else there is none of its business. `durable` is no DICOM, but files are
# written in one way everywhere, and `dicom_io` is the lowest package.
BELOW = {
    "dicom_io": (),
    "modeltrain": ("dicom_io.durable", "dicom_io.errors", "dicom_io.finding", "dicom_io.pixels"),
    "worker": ("dicom_io", "modeltrain"),
}


def module_of(path: Path) -> str:
    """Return the dotted name of a module's file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    """Return all modules of the three packages, but for migrations: Alembic finds and runs these by itself."""
    paths = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    return {module_of(path): path for path in paths if "migrations" not in path.parent.parts}


def imported(node: ast.AST) -> list[str]:
    """Return what a statement imports, as dotted names; from a package, with the name of each thing."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


@cache
def imports(module: str) -> frozenset[str]:
    """Return what a module imports anywhere in it, functions and annotations included."""
    tree = ast.parse(modules()[module].read_text())
    return frozenset(name for node in ast.walk(tree) for name in imported(node))


@cache
def arrows() -> dict[str, frozenset[str]]:
    """Return, for each module, the modules of the three packages that it imports."""

    def target(name: str) -> str | None:
        while name and name not in modules():
            name = name.rpartition(".")[0]
        return name or None

    return {
        module: frozenset(found for name in imports(module) if (found := target(name)) and found != module)
        for module in modules()
    }


def room(module: str) -> str:
    """Return the room that a module lies in, or its own name where it lies in none."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


@pytest.mark.parametrize("package", PACKAGES)
def test_every_room_has_its_place_in_the_order(package: str) -> None:
    rooms = {room(module) for module in modules() if module.split(".")[0] == package} - {""}
    assert rooms == set(ORDER[package])


@pytest.mark.parametrize("package", PACKAGES)
def test_rooms_import_only_rooms_before_them(package: str) -> None:
    place = {name: number for number, name in enumerate(ORDER[package])}
    wrong = [
        f"{module} -> {other}"
        for module, others in arrows().items()
        for other in others
        if module.split(".")[0] == other.split(".")[0] == package and room(module) and room(other)
        if place[room(other)] > place[room(module)]
    ]
    assert wrong == []


def test_modules_import_each_other_in_no_circle() -> None:
    # A package's own module counts as what its modules may import, and itself imports none of them.
    try:
        TopologicalSorter(arrows()).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_know_only_what_is_theirs_of_the_packages_below(package: str) -> None:
    wrong = [
        f"{module} -> {name}"
        for module in modules()
        if module.split(".")[0] == package
        for name in imports(module)
        if name.split(".")[0] in PACKAGES and name.split(".")[0] != package
        if not name.startswith(BELOW[package] or "-")
    ]
    assert wrong == []


def test_dicom_io_knows_nothing_of_models_databases_or_queues() -> None:
    forbidden = ("torch", "torchvision", "sqlalchemy", "onnxruntime", "celery")
    found = [name for module in modules() if module.startswith("dicom_io") for name in imports(module)]
    assert found
    assert [name for name in found if name.split(".")[0] in forbidden] == []


def test_a_model_is_read_without_torch() -> None:
    found = [name for module in modules() if module.startswith("modeltrain.model") for name in imports(module)]
    assert [name for name in found if name.split(".")[0] in ("torch", "torchvision")] == []


def test_serving_imports_no_torch() -> None:
    doors = "worker.cli.app, worker.engines.daemon, worker.engines.offline, worker.demo.demo"
    code = f"import sys, {doors}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_modules_stay_under_400_lines() -> None:
    assert [name for name, path in modules().items() if len(path.read_text().splitlines()) > 400] == []
