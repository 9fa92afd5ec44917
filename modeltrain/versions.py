"""A site's models: immutable folders named by content, which of them serves, and how it came to that."""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dicom_io.errors import InvalidModel, InvalidSettings, OutOfResources
from modeltrain.registry import CARD, CURRENT, Card, current_model, load_card, shipped_model

if TYPE_CHECKING:
    from pathlib import Path

HISTORY = "history.jsonl"


@dataclass(frozen=True, slots=True)
class Version:
    """One model that can serve.

    Attributes
    ----------
    name
        How it is called on the command line: name, version and the first twelve digits of its ONNX file's SHA-256.
    shipped
        Whether it came with cxrd.
    """

    name: str
    card: Card
    shipped: bool


def version_name(card: Card) -> str:
    """Return a model's name by content."""
    return f"{card.label}-{card.sha256[:12]}"


class Versions:
    """The models that came with cxrd, and those of the site in a folder of their own.

    Parameters
    ----------
    root
        The site's folder; it need not exist.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def all(self) -> list[Version]:
        """Return every intact model, the shipped ones first; each is held to the digests in its card."""
        found: dict[str, Version] = {}
        for root in (shipped_model().parent, self.root):
            for folder in _folders(root):
                try:
                    card = load_card(folder)
                except InvalidModel:
                    continue  # `damaged` tells of it; it must not be in the way of a rollback
                found.setdefault(version_name(card), Version(version_name(card), card, root != self.root))
        return list(found.values())

    def damaged(self) -> list[str]:
        """Return what is wrong with each model of the site that is not as it was added."""
        faults = []
        for folder in _folders(self.root):
            try:
                load_card(folder)
            except InvalidModel as error:
                faults.append(str(error))
        return faults

    def find(self, name: str) -> Version:
        """Return the model of this name; the name's beginning will do where it fits one model only.

        Raises
        ------
        InvalidSettings
            None has it, or several.
        """
        every = self.all()
        fitting = [version for version in every if version.name == name] or [
            version for version in every if version.name.startswith(name)
        ]
        if len(fitting) != 1:
            names = ", ".join(version.name for version in (fitting or every))
            raise InvalidSettings(f"{name}: {'several models have' if fitting else 'no model has'} this name ({names})")
        return fitting[0]

    def current(self) -> Path:
        """Return the folder of the model that serves: the promoted one, or the shipped one.

        Raises
        ------
        InvalidModel
            CURRENT does not name a folder.
        """
        return current_model(self.root) if (self.root / CURRENT).exists() else shipped_model()

    def stamp(self) -> tuple[int, int] | None:
        """Return what changes with each promotion, without reading anything; None where there was none."""
        try:
            status = (self.root / CURRENT).stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino

    def add(self, folder: Path) -> Version:
        """Copy a model folder into the site's, under its name by content; a model that is there already is left alone.

        Raises
        ------
        InvalidModel
            It is not an intact model folder.
        OutOfResources
            It cannot be written.
        """
        card = load_card(folder)
        name = version_name(card)
        target, building = self.root / name, self.root / f".{name}.new"
        if not target.exists():
            try:
                shutil.rmtree(building, ignore_errors=True)
                building.mkdir(parents=True)
                for file in (CARD, *card.digests):
                    shutil.copyfile(folder / file, building / file)
                    _sync(building / file)
                building.replace(target)
                _sync(self.root)
            except OSError as error:
                shutil.rmtree(building, ignore_errors=True)
                raise OutOfResources(f"{target}: cannot be written ({error.strerror})") from error
        return Version(name, load_card(target), False)

    def promote(self, version: Version, facts: dict[str, Any]) -> None:
        """Let a model serve, in one rename, and note it in the site's history.

        Raises
        ------
        OutOfResources
            The folder cannot be written; the model that served still does.
        """
        added = self.add(version.card.folder)
        entry = {"at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), "to": added.name, **facts}
        temporary = self.root / f".{CURRENT}.new"
        try:
            with (self.root / HISTORY).open("a", encoding="utf-8") as history:
                history.write(json.dumps(entry) + "\n")
                history.flush()
                os.fsync(history.fileno())
            temporary.write_text(f"{added.name}\n", encoding="utf-8")
            _sync(temporary)
            temporary.replace(self.root / CURRENT)
            _sync(self.root)
        except OSError as error:
            raise OutOfResources(f"{self.root / CURRENT}: cannot be written ({error.strerror})") from error

    def history(self) -> list[dict[str, Any]]:
        """Return what was promoted and rolled back, the oldest first."""
        try:
            lines = (self.root / HISTORY).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]

    def before(self) -> str:
        """Return the name of the model that served before the current one.

        Raises
        ------
        InvalidSettings
            Nothing was promoted yet.
        """
        history = self.history()
        if not history:
            raise InvalidSettings("nothing was promoted yet: there is nothing to roll back to")
        return str(history[-1]["from"])


def _folders(root: Path) -> list[Path]:
    """List the model folders in a folder."""
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if not path.name.startswith(".") and (path / CARD).is_file())


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
