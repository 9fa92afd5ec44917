"""Which images a model has learnt from: listed in its folder, recognised by content, UID and patient."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest

from dicom_io.errors import InvalidData, InvalidModel
from modeltrain.data.samples import Sample, with_contents
from modeltrain.data.seen_images import keys_of, seen_by, seen_images_of, unseen_images, write_seen_images
from modeltrain.data.sources import Source, Sources
from modeltrain.model.card import SEEN_IMAGES, load_card
from tests.support.models import tiny

if TYPE_CHECKING:
    from pathlib import Path

    from modeltrain.model.card import Card


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Eight files of four patients, the last four DICOM objects."""
    samples = []
    for number in range(8):
        path = tmp_path / f"{number}.bin"
        path.write_bytes(bytes([number]))
        samples.append(Sample(path, number % 2, f"p{number // 2}", uid=f"1.2.{number}" if number > 3 else ""))
    return Source("eight", tuple(samples), "digest")


def part(source: Source, *numbers: int) -> Source:
    return Source("part", tuple(source.samples[number] for number in numbers), "other")


def numbers_seen(card: Card, source: Source) -> list[int]:
    """Number the images that a model has learnt from."""
    seen_mask = seen_by(card, source)
    assert seen_mask is not None
    numbers: list[int] = np.flatnonzero(seen_mask).tolist()
    return numbers


def test_images_are_known_by_content_or_uid_and_their_patients_with_them(tmp_path: Path, source: Source) -> None:
    assert [len(keys) for keys in keys_of(source)] == [1] * 4 + [2] * 4
    card = load_card(tiny(tmp_path / "model", seen=part(source, 0, 6)))
    assert numbers_seen(card, source) == [0, 1, 6, 7]
    # An archive has rewritten the header of one, and a copy of a picture lies elsewhere under another name.
    (tmp_path / "6.bin").write_bytes(b"rewritten")
    (tmp_path / "copy").write_bytes(b"\0")
    copy = dataclasses.replace(source.samples[2], path=tmp_path / "copy", patient="p9")
    later = Source("later", (source.samples[6], copy, source.samples[4]), "d")
    assert numbers_seen(card, later) == [0, 1]


def test_the_whole_of_what_was_learnt_from_is_known_by_any_card(tmp_path: Path, source: Source) -> None:
    card = load_card(tiny(tmp_path / "model", data={"sha256": {"training": "x", "parts": ["digest"]}}))
    assert seen_images_of(card) is None
    assert numbers_seen(card, source) == list(range(8))
    assert seen_by(card, part(source, 0)) is None


def test_what_an_earlier_model_learnt_from_stays_known(tmp_path: Path, source: Source) -> None:
    first = seen_images_of(load_card(tiny(tmp_path / "a", seen=part(source, 0))))
    assert first is not None
    assert first.complete
    write_seen_images(tmp_path, Sources((part(source, 5),)), first)
    keys = np.load(tmp_path / SEEN_IMAGES)
    assert len(keys) == 3
    assert np.array_equal(keys, np.unique(keys))


def test_unseen_images_are_those_that_no_model_has_learnt_from(tmp_path: Path, source: Source) -> None:
    one = load_card(tiny(tmp_path / "a", seen=part(source, 0)))
    other = load_card(tiny(tmp_path / "b", version="9.1.0", seen=part(source, 5)))
    silent = load_card(tiny(tmp_path / "c", version="9.2.0"))
    unseen = unseen_images(source, (one, other))
    assert [sample.path.stem for sample in unseen.samples] == ["2", "3", "6", "7"]
    assert list(unseen.left_out.values()) == [2, 2]
    assert [line.split(":")[0] for line in unseen.notes()] == ["2 of 8 images are left out"] * 2
    (line,) = unseen_images(source, (silent,)).notes()
    assert line.endswith("has no list of the images that it has learnt from")
    with pytest.raises(InvalidData, match="part: nothing is left to compare on; 2 of 2 images"):
        unseen_images(part(source, 0, 1), (one, silent))
    one.raw["data"]["seen_images"]["complete"] = False
    assert (
        unseen_images(source, (one,))
        .notes()[-1]
        .endswith(": training list incomplete: overlap with this test set cannot be excluded")
    )


def test_a_file_that_tells_nothing_is_an_error(tmp_path: Path, source: Source) -> None:
    card = load_card(tiny(tmp_path / "a", seen=part(source, 0)))
    for content in (b"", b"nonsense"):
        (tmp_path / "a" / SEEN_IMAGES).write_bytes(content)
        with pytest.raises(InvalidModel, match="not a list of the images"):
            seen_images_of(card)
    np.save(tmp_path / "a" / SEEN_IMAGES, np.zeros(3))
    with pytest.raises(InvalidModel, match="not a list"):
        seen_images_of(card)


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"gone.png: cannot be read \(No such file"):
        with_contents([Sample(tmp_path / "gone.png", 0, "p")])
