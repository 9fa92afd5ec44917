"""Pictures and their way into the network: sizes, depths, orientation, and files that are no pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from PIL import Image

from dicom_io.errors import UnreadableObject
from modeltrain.model.preprocess import read_picture, to_input

if TYPE_CHECKING:
    from pathlib import Path


def test_an_image_of_the_right_size_is_left_alone() -> None:
    values = np.random.default_rng(0).random((224, 224), dtype=np.float32)
    result = to_input(values)
    assert result.shape == (1, 224, 224)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result[0], values)


def test_shrinking_keeps_what_fits_and_averages_what_does_not() -> None:
    ramp = np.tile(np.linspace(0, 1, 896, dtype=np.float32), (1120, 1))
    expected = np.tile(np.linspace(0, 1, 224), (224, 1))
    np.testing.assert_allclose(to_input(ramp)[0], expected, atol=0.005)
    # A pattern finer than the result can hold becomes its mean; without antialiasing it would become another pattern.
    board = (np.indices((896, 896)).sum(axis=0) % 2).astype(np.float32)
    np.testing.assert_allclose(to_input(board)[0], 0.5, atol=0.01)


def test_a_thin_image_is_squashed_along_one_axis_and_stretched_along_the_other() -> None:
    columns = np.tile(np.repeat([0.0, 1.0], 224).astype(np.float32), (112, 1))  # 112×448: left black, right white
    result = to_input(columns)[0]
    np.testing.assert_allclose(result, np.tile(np.repeat([0.0, 1.0], 112), (224, 1)), atol=0.1)
    np.testing.assert_allclose(result, result[:1].repeat(224, axis=0), rtol=0, atol=1e-6)


def test_enlarging_stays_in_range() -> None:
    result = to_input(np.array([[0, 1], [1, 0]], np.float32), 64)
    assert result.shape == (1, 64, 64)
    assert result.min() == 0
    assert result.max() == 1


@pytest.mark.parametrize("shape", [(3, 224, 224), (224,), (0, 5)])
def test_what_is_not_a_grey_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="grey image"):
        to_input(np.zeros(shape, np.float32))


def test_eight_and_sixteen_bits_and_colour(tmp_path: Path) -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    cv2.imwrite(str(tmp_path / "8.png"), ramp)
    cv2.imwrite(str(tmp_path / "16.png"), ramp.astype(np.uint16) * 257)
    cv2.imwrite(str(tmp_path / "red.png"), np.dstack([np.zeros_like(ramp), np.zeros_like(ramp), ramp]))  # BGR
    np.testing.assert_allclose(read_picture(tmp_path / "8.png"), ramp / 255, atol=1e-6)
    np.testing.assert_allclose(read_picture(tmp_path / "16.png"), ramp / 255, atol=1e-6)
    np.testing.assert_allclose(read_picture(tmp_path / "red.png"), 0.299 * ramp / 255, atol=0.5 / 255)


def test_sixteen_bits_keep_their_depth(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "deep.png"), np.array([[1000, 1001]], np.uint16))
    dark, light = read_picture(tmp_path / "deep.png")[0]
    assert light - dark == pytest.approx(1 / 65535, rel=1e-3)


def test_the_orientation_in_the_file_is_followed(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise
    grey = np.zeros((8, 16), np.uint8)
    grey[:, :8] = 255
    Image.fromarray(grey).save(tmp_path / "turned.png", exif=exif)
    result = read_picture(tmp_path / "turned.png")
    assert result.shape == (16, 8)
    assert result[:8].min() == 1
    assert result[8:].max() == 0


def test_too_many_pixels_are_refused_from_the_header(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "large.png"), np.zeros((100, 101), np.uint8))
    with pytest.raises(UnreadableObject, match="101×100 pixels"):
        read_picture(tmp_path / "large.png", max_pixels=10_000)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_truncated_picture_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"cut.{suffix}"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(UnreadableObject, match="cut"):
        read_picture(path)


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "head.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    for name in ("text.png", "head.png", "absent.png"):
        with pytest.raises(UnreadableObject, match=name):
            read_picture(tmp_path / name)
