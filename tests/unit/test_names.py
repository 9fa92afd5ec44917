"""Names are nouns of the field: none of these participles, which say that something was done and not what it is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTICIPLES = set("said told wanted found asked known made learnt seen listed written got lost given".split())  # noqa: SIM905


def bound(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield each name that a module gives to something of its own, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr, node.lineno
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno


@pytest.mark.parametrize("package", ["dicom_io", "modeltrain", "worker", "benchmarks"])
def test_no_name_is_a_bare_participle(package: str) -> None:
    paths = [path for path in sorted((ROOT / package).rglob("*.py")) if path.parent.name != "versions"]
    names = [
        f"{path.relative_to(ROOT)}:{line} {name}"
        for path in paths
        for name, line in bound(ast.parse(path.read_text()))
        if name.strip("_") in PARTICIPLES
    ]
    assert paths
    assert names == []
