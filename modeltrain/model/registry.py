"""A site's models: immutable folders named by content, which of them serves, and how it came to that."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dicom_io import durable
from dicom_io.errors import InvalidModel, InvalidSettings, OutOfResources
from modeltrain.model.card import (
    CARD,
    CURRENT,
    INT8,
    ONNX,
    SEAL,
    Card,
    current_model,
    file_digest,
    load_card,
    shipped_model,
)
from modeltrain.model.onnx_session import open_session
from modeltrain.model.outputs import CLASSES, Outputs

if TYPE_CHECKING:
    from pathlib import Path

HISTORY = "history.jsonl"


@dataclass(frozen=True, slots=True)
class Version:
    """One model that can serve.

    Attributes
    ----------
    name
        How it is called on the command line: name, version and the first twelve digits of its digest.
    shipped
        Whether it came with cxrd.
    """

    name: str
    card: Card
    shipped: bool


def version_name(card: Card) -> str:
    """Return a model's name by content."""
    return f"{card.label}-{card.sha256[:12]}"


class Registry:
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
        versions: dict[str, Version] = {}
        for root in (shipped_model().parent, self.root):
            for folder in _folders(root):
                try:
                    card = load_card(folder)
                except InvalidModel:
                    continue  # `damaged` tells of it; it must not be in the way of a rollback
                versions.setdefault(version_name(card), Version(version_name(card), card, root != self.root))
        return list(versions.values())

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
            fault = "several models have names that begin so" if fitting else "no such model; there are"
            raise InvalidSettings(f"{name}: {fault}: {names}")
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
            It is not an intact model folder, what is in it cannot answer, or it is there with another card.
        OutOfResources
            It cannot be written.
        """
        added = self._copy(folder)
        if (added.card.folder / CARD).read_bytes() != (folder / CARD).read_bytes():
            raise InvalidModel(
                f"{folder}: {added.name} is there with another card, and a model is never changed: "
                "give it another version"
            )
        return added

    def _copy(self, folder: Path) -> Version:
        card = load_card(folder)
        name = version_name(card)
        target, building = self.root / name, self.root / f".{name}.new"
        if not target.exists():
            try:
                shutil.rmtree(building, ignore_errors=True)
                building.mkdir(parents=True)
                for file in (CARD, *card.digests):
                    shutil.copyfile(folder / file, building / file)
                (building / SEAL).write_text(f"{file_digest(building / CARD)}\n", encoding="utf-8")
                # The copy answers, not the original: it has only the files that the card names.
                prove(replace(card, folder=building), shown_as=folder)
                durable.place_folder(building, target)
            except OSError as error:
                raise OutOfResources(f"{target}: cannot be written ({error.strerror})") from error
            finally:
                shutil.rmtree(building, ignore_errors=True)
        return Version(name, load_card(target), False)

    def promote(self, version: Version, facts: dict[str, Any]) -> None:
        """Let a model serve, in one rename, and note it in the site's history.

        Raises
        ------
        OutOfResources
            The folder cannot be written; the model that served still does.
        """
        added = self._copy(version.card.folder)
        entry = {"at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), "to": added.name, **facts}
        try:
            self._note(entry)
            durable.write_file(self.root / CURRENT, f"{added.name}\n".encode())
        except OSError as error:
            raise OutOfResources(f"{self.root / CURRENT}: cannot be written ({error.strerror})") from error

    def history(self) -> list[dict[str, Any]]:
        """Return what was promoted and rolled back, the oldest first.

        A last line without its end is what a full disk or a lost process leaves: that exchange never took place.

        Raises
        ------
        InvalidModel
            A line is not what was written; the message names it.
        """
        try:
            text = (self.root / HISTORY).read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        entries = []
        for number, line in enumerate(text.split("\n")[:-1], start=1):
            try:
                entry = json.loads(line)
                entries.append({**entry, "from": str(entry["from"]), "to": str(entry["to"])})
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidModel(f"{self.root / HISTORY}: line {number} is damaged; repair or remove it") from error
        return entries

    def before(self) -> str:
        """Return the name of the model that served before the current one, and can serve.

        Going back twice goes back by two: what was rolled back is not gone back to.

        Raises
        ------
        InvalidSettings
            There is none.
        InvalidModel
            The history is damaged.
        """
        usable = {version.name for version in self.all()}
        for name in reversed(_served_before(self.history(), self.current().name)):
            if name in usable:
                return name
        raise InvalidSettings("no earlier model can serve: there is nothing to roll back to")

    def _note(self, entry: dict[str, Any]) -> None:
        """Add a line to the history, whole, after what a torn write may have left."""
        with (self.root / HISTORY).open("a+b") as history:
            history.seek(0)
            history.truncate(history.read().rfind(b"\n") + 1)
            history.write(json.dumps(entry).encode() + b"\n")
            durable.sync_file(history)


def prove(card: Card, shown_as: Path | None = None) -> None:
    """Let each file that may serve on a CPU answer one empty image: a digest says that it is whole, not that it serves.

    Parameters
    ----------
    shown_as
        The folder that a message names; by default the card's own.

    Raises
    ------
    InvalidModel
        It cannot be loaded, or answers in another form than `modeltrain.model.outputs.Outputs`.
    """
    for file in (each for each in (ONNX, INT8) if each in card.digests):
        path = (shown_as or card.folder) / file
        try:
            session = open_session(card.folder / file)
            blank = np.zeros((1, 1, card.input_size, card.input_size), np.float32)
            outputs = Outputs(*session.run(list(Outputs._fields), {"image": blank}))
        except Exception as error:  # ONNX Runtime's errors have no common base but this
            raise InvalidModel(f"{path}: cannot answer ({type(error).__name__})") from error
        shapes = (outputs.logits.shape, outputs.evidence.ndim, outputs.box.shape, outputs.lungs.ndim)
        if shapes != ((1, len(CLASSES)), 3, (1, 4), 3) or outputs.outlier.shape != (1,):
            raise InvalidModel(f"{path}: answers in another form than {', '.join(Outputs._fields)} of two classes")


def _served_before(history: list[dict[str, Any]], current: str) -> list[str]:
    """Return the models that served before the current one and were not rolled back, the latest last."""
    # An exchange whose rename failed stands in the history, but what came after it began elsewhere.
    begun = [*(entry["from"] for entry in history[1:]), current][: len(history)]
    stack: list[str] = []
    for entry, after in zip(history, begun, strict=True):
        if entry["to"] != after:
            continue
        if entry.get("kind") != "rolled_back":
            stack.append(entry["from"])
        elif entry["to"] in stack:
            del stack[stack.index(entry["to"]) :]
    return stack


def _folders(root: Path) -> list[Path]:
    """List the model folders in a folder."""
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if not path.name.startswith(".") and (path / CARD).is_file())
