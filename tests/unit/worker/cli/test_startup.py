"""What a command imports before it can answer, and what the tree of commands says of itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from worker.cli.app import app
from worker.ledger.database import open_ledger
from worker.settings import load

HEAVY = ("alembic", "cv2", "highdicom", "matplotlib", "numpy", "onnxruntime", "pydicom", "scipy", "sklearn", "torch")
LEDGER = ("sqlalchemy", "structlog", "pydantic_settings")
_PROGRAM = """
import sys
from worker.cli.app import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
sys.stderr.write(" ".join({name.split(".")[0] for name in sys.modules}))
"""


def imported(*arguments: str) -> set[str]:
    """Return the packages that a command has imported when it ends."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *arguments], check=True, capture_output=True, text=True, timeout=120
    )
    return set(done.stderr.split())


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["models", "--help"], ["--version"]])
def test_help_waits_for_no_library(arguments: list[str]) -> None:
    assert imported(*arguments) & {*HEAVY, *LEDGER} == set()


@pytest.mark.parametrize("arguments", [["audit", "list"], ["audit", "verify"], ["redeliver"]])
def test_a_question_to_the_ledger_waits_for_the_ledger_only(arguments: list[str], tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("storage: {folder: data}\n")
    open_ledger(load(config))
    packages = imported(*arguments, "--config", str(config))
    assert "sqlalchemy" in packages
    own_views = {"alembic"} if arguments[-1] == "verify" else set()  # to compare, it makes the views anew
    assert packages & set(HEAVY) <= own_views
    # The log's library comes only with commands whose modules may log.
    assert ("structlog" in packages) is (arguments[0] != "audit")


# What a process does not need, it does not wait for when it starts: counted here, for a clock says something else each
# time. Which codecs pydicom brings along depends on what is installed.
NEVER = {"alembic", "dicomweb_client", "hl7apy", "jinja2", "matplotlib", "psycopg", "reportlab", "sklearn", "torch"}
_IMAGES = {"cv2", "highdicom", "onnxruntime", "scipy"}
_DATABASE = {"sqlalchemy"}
_NODE = {"pynetdicom"}
_MODULES = {
    "worker.cli.app": (
        210,
        NEVER | _IMAGES | _DATABASE | _NODE | {"rich", "numpy", "pydantic", "pydicom", "structlog"},
    ),
    "worker.engines.supervisor": (780, NEVER | _IMAGES | _NODE | {"numpy", "pydicom"}),
    "worker.engines.receiver": (1200, NEVER | _IMAGES),
    "worker.engines.couriers": (1250, NEVER | _IMAGES),
    "worker.engines.offline": (1150, NEVER | _DATABASE | _NODE),
}
"""For each program's first module: how many modules it may bring along, and the packages that it may not."""


@pytest.mark.parametrize("module", _MODULES)
def test_a_process_imports_only_what_it_needs_to_start(module: str) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=120)
    names = done.stdout.split()
    most, never = _MODULES[module]
    assert {name.split(".")[0] for name in names} & never == set()
    assert len(names) <= most


def leaves(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each command of the tree that has none under it, with its words."""
    if not hasattr(command, "commands"):
        yield name, command
    for word, each in getattr(command, "commands", {}).items():
        yield from leaves(each, f"{name} {word}".strip())


COMMANDS = dict(leaves(typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_says_what_it_is_for_and_what_its_options_do(name: str) -> None:
    command = COMMANDS[name]
    first = command.help.splitlines()[0]
    assert first.endswith(".")
    assert len(first.split()) <= 25
    assert [each.name for each in command.params if not (each.help or each.hidden)] == []


@pytest.mark.parametrize("option", ["--config", "--since", "--until", "--format", "--accession", "--receipt"])
def test_what_commands_share_is_declared_once(option: str) -> None:
    texts = {each.help for command in COMMANDS.values() for each in command.params if option in each.opts}
    assert len(texts) == (2 if option == "--accession" else 1)  # for `feedback add` it names the images by itself
