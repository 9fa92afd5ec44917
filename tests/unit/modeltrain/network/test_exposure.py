"""One exposure for all: how a radiograph was exposed tells the network nothing, and its weights carry that."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file

from modeltrain.data.samples import Images
from modeltrain.data.sources import sources_of
from modeltrain.export.export import NewVersion, export_model
from modeltrain.export.int8_file import quantize
from modeltrain.export.onnx_file import onnx_predictor, rounded, write_weights
from modeltrain.model.card import load_card
from modeltrain.network.architectures import load_network
from modeltrain.network.exposure import KEY, LANDMARKS, Exposure, landmarks_of
from modeltrain.training import train
from modeltrain.training.beginnings import Beginnings
from modeltrain.training.checkpoint import read_progress
from modeltrain.training.landmarks import mean_landmarks
from modeltrain.training.learner import Learner
from modeltrain.training.tensor_file import save_tensors
from tests.unit.modeltrain.toys import batch, lively_network, write_class
from tests.unit.modeltrain.training.test_train import QUICK, kill_in_second_epoch

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from modeltrain.training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")

STANDARD = dataclasses.replace(QUICK, standardize=True)


@pytest.fixture(scope="module")
def best(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The best weights of a quick run at one exposure."""
    return train.run(data, tmp_path_factory.mktemp("runs") / "standard", STANDARD, progress=False)


@pytest.fixture
def images() -> Tensor:
    """Drawn chests, float32 [4, 1, 224, 224]."""
    return torch.from_numpy(batch(4))


def standard(landmarks: Tensor | None = None) -> Exposure:
    """Return a module that knows landmarks: from .1 to .9."""
    module = Exposure()
    module.landmarks = torch.linspace(0.1, 0.9, LANDMARKS) if landmarks is None else landmarks
    return module


def test_without_landmarks_an_image_stays_as_it_is(images: Tensor) -> None:
    assert Exposure()(images) is images


def test_an_image_comes_to_the_landmarks_and_keeps_its_order(images: Tensor) -> None:
    shown = standard()(images)
    torch.testing.assert_close(landmarks_of(shown), standard().landmarks.expand(4, -1))
    for image, after in zip(images, shown, strict=True):
        order = image.flatten().argsort()
        assert (after.flatten()[order].diff() >= -1e-6).all()
    own = standard(landmarks_of(images[:1])[0])
    torch.testing.assert_close(own(images[:1]), images[:1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("gamma", [0.6, 1.5])
def test_exposure_and_contrast_make_next_to_no_difference(images: Tensor, gamma: float) -> None:
    other = (0.1 + 0.7 * images) ** gamma
    assert (other - images).abs().mean() > 0.04
    assert (standard()(other) - standard()(images)).abs().mean() < 0.004


def test_a_mirror_image_is_shown_as_the_mirror_image(images: Tensor) -> None:
    torch.testing.assert_close(standard()(images.flip(3)), standard()(images).flip(3), atol=0, rtol=0)


@pytest.mark.parametrize(("width", "most"), [(22, 1e-6), (34, 0.005)])
def test_black_sides_hardly_move_what_they_leave(width: int, most: float) -> None:
    whole = 0.2 + 0.6 * torch.rand(1, 1, 224, 224, generator=torch.Generator().manual_seed(0))  # alike everywhere
    framed = whole.clone()
    framed[..., :width] = framed[..., -width:] = framed[..., :width, :] = framed[..., -width:, :] = 0
    left = slice(width, -width)
    moved = (standard()(framed) - standard()(whole))[..., left, left].abs().mean()
    assert moved <= most
    assert (standard()(framed)[..., :width] == 0).all(), "black stays black"


def test_what_is_clipped_is_neither_the_darkest_nor_the_lightest_of_what_it_was(images: Tensor) -> None:
    clipped = images.clamp(0.25, 0.55)
    shown = standard()(clipped)
    dark, light = shown[clipped == clipped.min()].unique(), shown[clipped == clipped.max()].unique()
    own = standard()(images)
    assert own[images < 0.25].min() < dark.min() <= dark.max() < own[images < 0.25].max() + 0.05
    assert own[images > 0.55].min() < light.min() <= light.max() < own[images > 0.55].max()


def test_a_marker_s_white_moves_nothing_else(images: Tensor) -> None:
    marked = images.clone()
    marked[..., 30:36, 30:40] = 1.0  # within what counts, and less of it than is trimmed
    elsewhere = torch.ones_like(images, dtype=torch.bool)
    elsewhere[..., 30:36, 30:40] = False
    assert (standard()(marked) - standard()(images))[elsewhere].abs().max() < 0.03
    assert (standard()(marked)[..., 30:36, 30:40] > 0.99).all(), "white stays white"


@pytest.mark.parametrize("black", [0.0, 4 / 255])
def test_what_is_black_is_left_aside_and_what_is_nearly_black_is_not(black: float) -> None:
    whole = 0.2 + 0.6 * torch.rand(1, 1, 224, 224, generator=torch.Generator().manual_seed(0))
    half = whole.clone()
    half[..., :112] = black
    torch.testing.assert_close(landmarks_of(half), landmarks_of(whole), atol=0.01, rtol=0)
    half[..., :112] = 6 / 255
    assert landmarks_of(half)[0, 3] == pytest.approx(6 / 255)


def test_an_image_of_one_grey_is_one_grey() -> None:
    greys = [standard()(torch.full((1, 1, 64, 64), grey)).unique() for grey in (0.0, 0.5, 1.0)]
    assert [len(each) for each in greys] == [1, 1, 1]
    assert 0 < greys[0].item() < 0.5 < greys[2].item() < 1
    line = standard()(torch.eye(64)[None, None])
    assert torch.isfinite(line).all()
    assert line.min() == 0


def test_each_class_counts_alike(tmp_path: Path) -> None:
    write_class(tmp_path / "NORMAL", [f"IM-{i:04d}-0001.png" for i in range(6)], opacity=False)
    write_class(tmp_path / "PNEUMONIA", ["person1_virus_1.png", "person2_virus_2.png"], opacity=True)
    images = Images(sources_of(tmp_path).parts[0].samples, 10**7)
    grey = torch.from_numpy(np.stack([images[i] for i in range(8)]))[:, None] / 255
    labels = torch.tensor([sample.label for sample in images.samples])
    means = [landmarks_of(grey[labels == label]).mean(dim=0) for label in (0, 1)]
    np.testing.assert_allclose(mean_landmarks(images), (means[0] + means[1]) / 2, atol=1e-6)
    assert np.abs(mean_landmarks(images) - landmarks_of(grey).mean(dim=0).numpy()).max() > 0.01


def test_a_run_goes_on_to_the_same_weights_and_landmarks(best: Path, data: Path, tmp_path: Path) -> None:
    kill_in_second_epoch(data, tmp_path, STANDARD)
    resumed = train.run(data, tmp_path, STANDARD, resume=True, progress=False)
    assert resumed.read_bytes() == best.read_bytes()
    landmarks = load_file(best)[KEY]
    images = Images(sources_of(data).split(0.1, 42).train, 10**7)
    np.testing.assert_allclose(landmarks, mean_landmarks(images))


@pytest.mark.parametrize("recipe", [QUICK, STANDARD])
def test_weights_keep_their_landmarks_whatever_the_recipe(
    recipe: Recipe, best: Path, data: Path, tmp_path: Path
) -> None:
    others = torch.linspace(0.2, 0.8, 7)
    save_tensors(
        tmp_path / "start", load_file(best) | {KEY: others}, {"progress": read_progress(best).to_json(timed=False)}
    )
    kill_in_second_epoch(data, tmp_path / "run", recipe, beginnings=Beginnings(tmp_path / "start"))
    again = train.run(data, tmp_path / "run", recipe, Beginnings(tmp_path / "start"), resume=True, progress=False)
    assert torch.equal(load_file(again)[KEY], others)


def test_weights_without_landmarks_have_none(best: Path, data: Path, tmp_path: Path) -> None:
    plain = train.run(data, tmp_path, dataclasses.replace(QUICK, stages=((1, 32),)), progress=False)
    assert KEY not in load_file(plain)
    learner = Learner(STANDARD, "cpu")
    learner.begin(best)
    assert learner.network.standard.landmarks.numel() == learner.average.standard.landmarks.numel() == LANDMARKS
    learner.begin(plain)
    assert learner.network.standard.landmarks.numel() == learner.average.standard.landmarks.numel() == 0


@pytest.mark.slow
@pytest.mark.usefixtures("few_ranges")
def test_a_model_shows_its_network_one_exposure(best: Path, data: Path, tmp_path: Path, images: Tensor) -> None:
    card = load_card(export_model(best, data, tmp_path, NewVersion("toy", "0.1.0")))
    assert card.raw["preprocessing"]["exposure"].startswith("inside the network: 11 percentiles")
    predict, network = onnx_predictor(card.folder / "model.onnx"), load_network(card)
    darker = (images**1.3).numpy()
    for shown in (images.numpy(), darker):
        with torch.inference_mode():
            expected = network(torch.from_numpy(shown)).logits.numpy()
        np.testing.assert_allclose(predict(shown).logits, expected, atol=1e-3)
    network.standard.landmarks = torch.zeros(0)
    with torch.inference_mode():
        plain = [network(torch.from_numpy(shown)).logits for shown in (images.numpy(), darker)]
    moved = np.abs(predict(darker).logits - predict(images.numpy()).logits).max()
    assert moved < (plain[0] - plain[1]).abs().max() / 5


def test_the_int8_file_has_the_landmarks_whole(tmp_path: Path) -> None:
    network = lively_network()
    network.standard.landmarks = standard().landmarks
    write_weights(rounded(network.state_dict()), tmp_path)
    quantize(tmp_path / "model.onnx", tmp_path / "int8.onnx", list(batch(4)))
    graph = onnx.load(tmp_path / "int8.onnx").graph
    made_by = {name: node for node in graph.node for name in node.output}
    first = next(node for node in graph.node if node.op_type == "Conv")
    before, waiting = set(), [first.input[0]]
    while waiting:
        node = made_by.get(waiting.pop())
        if node is not None:
            before.add(node.op_type)
            waiting += node.input
    assert {"TopK", "ReduceSum"} <= before
    assert not {"QuantizeLinear", "DequantizeLinear", "Conv"} & before
