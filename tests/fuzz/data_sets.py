"""Harnesses on stored objects: reading headers, deciding, rendering pixels, and the whole analysis."""

from __future__ import annotations

import tempfile
from pathlib import Path
from random import Random

from dicom_io.errors import Permanent, UnreadableObject
from dicom_io.header.eligibility import judge
from dicom_io.header.reading import read_arrived, read_dataset, read_header, syntax_of
from dicom_io.header.reading_limits import ReadingLimits
from dicom_io.header.rules import Rules
from dicom_io.header.source_image import source_image
from dicom_io.network.content import content_sha256
from dicom_io.pixels.decoders import KEPT, Decoders, DecodingLimits
from dicom_io.pixels.radiograph import attributes
from dicom_io.pixels.render import render
from tests.fuzz.harness import Fault, promised
from tests.fuzz.mutation import damaged, damaged_set
from tests.fuzz.samples import data_set, file_of, objects, shared_objects
from worker.engines.offline import analyze
from worker.inference.analyzer import Reader
from worker.settings import Settings

LIMITS = ReadingLimits(max_elements=20_000, max_memory_mb=100)
_DECODING = DecodingLimits(max_memory_mb=100, seconds=20.0)
_KINDS = (
    *("secondary-capture", "structured-report", "presentation-state"),
    *("key-objects", "parametric-map", "encapsulated-pdf", "multi-frame-capture"),
)


class _Stored:
    """What harnesses on a file have in common: a folder of their own."""

    bound_mb = 150.0
    children = 0

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(dir=Path.cwd().parent)
        self._path = Path(self._folder.name, "object.dcm")

    def leftovers(self) -> list[str]:
        """Return files beside the object."""
        return [each.name for each in self._path.parent.iterdir() if each != self._path]

    def close(self) -> None:
        """Remove the folder."""
        self._folder.cleanup()


def any_object(chance: Random) -> bytes:
    """Return a file: drawn in any syntax, or of the shared ones where there are some."""
    of = shared_objects() if chance.random() < 0.3 else {}
    return chance.choice(list((of or objects()).values()))


def _head_damaged(data: bytes, chance: Random) -> bytes:
    """Return a file with damage in its first part, where its header is."""
    end = chance.choice((200, 400, 1000, 3000, len(data)))
    return damaged(data[:end], chance) + data[end:]


class Headers(_Stored):
    """Reading a header and a data set, and all that is asked of a header."""

    def case(self, chance: Random) -> bytes:
        """Return a file with damage in its header."""
        if chance.random() < 0.5:
            return file_of(damaged_set(data_set(), chance))
        return _head_damaged(any_object(chance), chance)

    def run(self, data: bytes) -> str:
        """Read it as receipt and worker do."""
        self._path.write_bytes(data)
        with promised(UnreadableObject) as arrived:
            read_arrived(self._path, LIMITS)
            content_sha256(self._path)
        syntax_of(self._path)
        with promised(UnreadableObject) as whole:
            read_dataset(self._path, LIMITS)
        with promised(UnreadableObject) as ends:
            header = read_header(self._path, LIMITS)
            verdict = judge(header, Rules())
            attributes(header)
            ends.append("eligible" if verdict.analyse else "not eligible")
            source_image(header)
            ends[-1] += ", source"
        return f"arrival {'refused' if arrived else 'read'}, whole {'refused' if whole else 'read'}, {ends[-1]}"


class Pixels(_Stored):
    """Rendering: damage to code streams and to what describes them."""

    children = KEPT

    def __init__(self) -> None:
        super().__init__()
        self._decoders = Decoders(_DECODING)

    def case(self, chance: Random) -> bytes:
        """Return a file with damage near its pixels, or in them."""
        data = any_object(chance)
        at = max(0, data.find(b"\xe0\x7f\x10\x00"))
        match chance.randrange(4):
            case 0:  # what describes the pixels: rows, columns, bits, tables
                at = max(0, data.find(b"\x28\x00\x02\x00"))
                return data[:at] + damaged(data[at : at + 400], chance) + data[at + 400 :]
            case 1:  # the code stream's own header
                return data[: at + 20] + damaged(data[at + 20 : at + 300], chance) + data[at + 300 :]
            case _:
                return data[: at + 8] + damaged(data[at + 8 :], chance)

    def run(self, data: bytes) -> str:
        """Read and render it."""
        self._path.write_bytes(data)
        with promised(Permanent) as ends:
            dataset = read_dataset(self._path, LIMITS)
            rendered = render(dataset, max_pixels=4_000_000, decoders=self._decoders)
            values = rendered.values
            if not (float(values.min()) >= 0.0 and float(values.max()) <= 1.0):  # false for what is no number, too
                raise Fault("displayed values outside of 0 to 1")
            ends.append("blank" if rendered.blank else "rendered")
        return ends[-1]

    def close(self) -> None:
        """End the decoders."""
        self._decoders.close()
        super().close()


class Analyses(_Stored):
    """The whole analysis of a file, with every kind of result."""

    bound_mb = 500.0
    children = KEPT

    def __init__(self) -> None:
        super().__init__()
        self._out = tempfile.TemporaryDirectory(dir=Path.cwd().parent)
        self._settings = Settings.model_validate(
            {
                "pixels": {"max_memory_mb": 100, "max_elements": 20_000, "max_pixels": 4_000_000},
                "model": {"out_of_distribution": "warn"},
                "results": {"kinds": _KINDS, "report_not_analysed": True, "height": 400},
                "worker": {"threads": 1},
            }
        )
        self._reader = Reader(self._settings)

    def case(self, chance: Random) -> bytes:
        """Return a file that mostly is still eligible."""
        if chance.random() < 0.7:
            return file_of(damaged_set(data_set(), chance))
        return (Headers.case if chance.random() < 0.3 else Pixels.case)(self, chance)  # type: ignore[arg-type]

    def run(self, data: bytes) -> str:
        """Analyse it as `cxrd analyze` does."""
        self._path.write_bytes(data)
        (outcome,) = analyze([self._path], Path(self._out.name), self._reader, self._settings)
        unforeseen = [why for why in (outcome.reason, *outcome.left_out.values()) if "unexpected" in why]
        if unforeseen:
            raise Fault(unforeseen[0])
        if outcome.status != "analysed" and not outcome.reason:
            raise Fault(f"{outcome.status} without a reason")
        if not outcome.reason.isprintable():
            raise Fault(f"a reason of {outcome.reason!r}")
        for each in outcome.outputs:
            Path(each).unlink()
        return outcome.status + (", not with all results" if outcome.left_out else "")

    def leftovers(self) -> list[str]:
        """Return what lies beside the object, and outputs that the outcome does not name."""
        return [*super().leftovers(), *(each.name for each in Path(self._out.name).iterdir())]

    def close(self) -> None:
        """End model and decoders."""
        self._reader.close()
        self._out.cleanup()
        super().close()
