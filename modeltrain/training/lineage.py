"""Which runs went into a run: those whose weights it began with, its teachers, and all before them.

A run's file and a model's card list each of them once. None contains another one's history.
"""

from __future__ import annotations

import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

UNKNOWN = "unknown"  # the digest of data that no record names


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A run whose weights another one began with, or whose network taught it.

    Attributes
    ----------
    run
        The run's digest (`checkpoint.Progress.digest`).
    model
        Name by content of the model folder that it was taken from; empty for a run's own file.
    recipe, arch
        Their names.
    seed, validation_fraction
        How its patients were divided into training and validation.
    data, parts
        The digest of its data, and of each part of it.
    began_with, teachers
        Digests of other runs; empty where there were none.
    commit
        The source code that it was made with; empty where that is not known.
    """

    run: str
    model: str
    recipe: str
    arch: str
    seed: int
    validation_fraction: float
    data: str
    parts: tuple[str, ...]
    began_with: str
    teachers: tuple[str, ...]
    commit: str

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Ancestor:
        """Read plain values, as JSON has them."""
        return cls(**plain | {"parts": tuple(plain["parts"]), "teachers": tuple(plain["teachers"])})

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self) | {"parts": list(self.parts), "teachers": list(self.teachers)}

    @property
    def learnt_from(self) -> set[str]:
        """The digests of all parts of its data."""
        return set(self.parts) or {self.data}


def line_of(runs: Iterable[str], ancestors: Sequence[Ancestor]) -> list[Ancestor]:
    """Return the ancestors with these digests and all that went into them, each once."""
    by_run = {ancestor.run: ancestor for ancestor in ancestors}
    line: dict[str, Ancestor] = {}
    waiting = list(runs)
    while waiting:
        run = waiting.pop(0)
        if run in by_run and run not in line:
            line[run] = by_run[run]
            waiting += [each for each in (by_run[run].began_with, *by_run[run].teachers) if each]
    return list(line.values())


def code_commit() -> str:
    """Return the commit of the checkout that this module lies in; empty in an installed wheel.

    It ends with `-dirty` where files differ from the commit.
    """
    top = Path(__file__).resolve().parents[2]
    if not (top / ".git").exists():
        return ""
    command = ["git", "-C", str(top), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        process = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - a fixed command
    except (OSError, subprocess.CalledProcessError):
        return ""
    return process.stdout.strip()
