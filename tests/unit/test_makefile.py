"""The Makefile where it must not set anything up: its help, and what it says where Python does not do."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.tools import tool

ROOT = Path(__file__).resolve().parents[2]


def copy_sources(folder: Path) -> None:
    """Copy what make looks at, with its times."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy2(ROOT / name, folder)
    shutil.copytree(ROOT / "requirements", folder / "requirements", dirs_exist_ok=True)


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make on a copy of the Makefile in a folder of its own."""
    copy_sources(folder)
    return subprocess.run(
        [tool("make"), "-C", str(folder), *arguments], check=False, capture_output=True, text=True, timeout=60
    )


def python(folder: Path, *, refuses: str) -> str:
    """Write a Python that ends with an error where it is asked for something."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\ncase "$*" in *{refuses}*) exit 1 ;; esac\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return str(path)


def test_make_alone_lists_every_target(tmp_path: Path) -> None:
    done = make(tmp_path)
    assert done.returncode == 0
    listed = re.findall(r"^  make ([a-z-]+)", done.stdout, re.MULTILINE)
    (phony,) = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert listed == phony.split()


@pytest.mark.parametrize(
    ("refuses", "said"),
    [("version_info", "cxrd needs Python 3.11 or newer"), ("ensurepip", "apt install python3-venv")],
)
def test_a_python_that_does_not_do_is_one_line(tmp_path: Path, refuses: str, said: str) -> None:
    done = make(tmp_path, "install", f"PYTHON={python(tmp_path, refuses=refuses)}")
    (line, stop) = done.stderr.splitlines()
    assert said in line
    assert re.match(r"make(\[\d+\])?: \*\*\*", stop)  # numbered where make runs the tests
    assert not (tmp_path / ".venv").exists()


def test_no_python_at_all_is_one_line(tmp_path: Path) -> None:
    done = make(tmp_path, "install", "PYTHON=")
    assert "there is none on the PATH" in done.stderr.splitlines()[0]
    assert not (tmp_path / ".venv").exists()


def test_an_environment_that_was_copied_from_elsewhere_is_made_anew(tmp_path: Path) -> None:
    first, copy, link = tmp_path / "first", tmp_path / "second folder", tmp_path / "link"
    first.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(first / ".venv")], check=True, timeout=120)
    copy_sources(first)
    # The stamp is newer than all these, so that nothing is to be done where the environment was made.
    (first / ".venv" / ".stamp-install").touch()
    shutil.copytree(first, copy, symlinks=True)
    link.symlink_to(first)

    def would(folder: Path) -> str:
        command = [tool("make"), "-C", str(folder), "--dry-run", "install"]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout

    assert "rm -rf .venv" not in would(first)
    assert "rm -rf .venv" not in would(link)
    said = would(copy)
    assert f".venv was copied from {first / '.venv'}" in said
    steps = [said.index(step) for step in ("rm -rf .venv\n", "-m venv .venv", "--editable .")]
    assert steps == sorted(steps)


@pytest.mark.parametrize(
    ("target", "arguments", "lists"),
    [
        ("install", [], ["requirements/serving.txt", "requirements/build.txt"]),
        ("install", ["LOCK=requirements/extras.txt"], ["requirements/extras.txt", "requirements/build.txt"]),
        ("install", ["LOCK="], []),
        (".venv/.stamp-test", [], ["requirements/extras.txt", "requirements/build.txt"]),
        (".venv/.stamp-test", ["LOCK="], []),
    ],
)
def test_what_is_installed_is_held_to_hashes(
    target: str, arguments: list[str], lists: list[str], tmp_path: Path
) -> None:
    done = make(tmp_path, "--dry-run", target, *arguments)
    assert done.returncode == 0
    assert re.findall(r"--require-hashes --requirement (\S+)", done.stdout) == lists
    # What builds cxrd comes by its hash too, or pip fetches it.
    assert ("--no-deps --no-build-isolation --editable ." in done.stdout) == bool(lists)


def test_a_changed_list_is_installed(tmp_path: Path) -> None:
    copy_sources(tmp_path)
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "python").touch()
    stamp, changed = tmp_path / ".venv" / ".stamp-install", tmp_path / "requirements" / "serving.txt"
    stamp.touch()
    newest = max(path.stat().st_mtime for path in tmp_path.rglob("*") if path.is_file())
    command = [tool("make"), "-C", str(tmp_path), "--question", "install"]
    os.utime(stamp, times=(newest + 1, newest + 1))
    assert subprocess.run(command, check=False, capture_output=True, timeout=60).returncode == 0
    os.utime(changed, times=(newest + 2, newest + 2))
    assert subprocess.run(command, check=False, capture_output=True, timeout=60).returncode == 1
