"""The network that finds lungs: trained in small, recorded, and a part of a classifier that looks at lungs alone."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dicom_io.errors import InvalidData, InvalidModel
from modeltrain.data.seen_images import seen_images_of
from modeltrain.export.export import NewVersion, export_model
from modeltrain.export.onnx_file import onnx_predictor
from modeltrain.model.card import load_card
from modeltrain.model.outputs import Outputs
from modeltrain.model.registry import prove
from modeltrain.network.architectures import ChestNet, load_network, take_up_lungs
from modeltrain.training import lungs, train
from modeltrain.training.beginnings import Beginnings
from modeltrain.training.checkpoint import lungs_had_known_data, read_progress
from modeltrain.training.lung_weights import record_behind, save_lungs
from modeltrain.training.recipe import RECIPES
from modeltrain.training.tensor_file import save_tensors
from tests.unit.modeltrain.toys import batch, draw_mask, write_masks

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = lungs.LungRecipe(epochs=2, batch_size=8, learning_rate=5e-3)
LOOKS = dataclasses.replace(RECIPES["lungs"], stages=((1, 64),), batch_size=8, fixed=("lungs.",))


@pytest.fixture(scope="module")
def masks(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Masks of the drawn radiographs, but for one."""
    folder = write_masks(tmp_path_factory.mktemp("masks"), data)
    (folder / "train" / "NORMAL" / "IM-0003-0001.png").unlink()
    return folder


@pytest.fixture(scope="module")
def weights(data: Path, masks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a short run."""
    out = tmp_path_factory.mktemp("lungs") / "run"
    lungs.run(data, masks, out, SHORT, credit="drawn, CC0", progress=False)
    return out / "lungs.safetensors"


@pytest.fixture(scope="module")
def best(data: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The best weights of a classifier that looks at these lungs."""
    out = tmp_path_factory.mktemp("runs") / "looks"
    return train.run(data, out, LOOKS, Beginnings(lungs=weights), progress=False)


def test_the_file_says_how_it_came_to_be(weights: Path, data: Path) -> None:
    record = record_behind(weights)
    assert record is not None
    assert (record.recipe, record.seed, record.validation_fraction, record.epochs) == ("lungs-unet", 42, 0.11, 2)
    assert record.train + record.validation + record.without_mask == 26
    assert record.without_mask == 1
    assert record.credit == "drawn, CC0"
    assert 0 <= record.dice.least <= record.dice.mean <= 1
    assert 0 < record.dice_reframed.mean <= 1
    network = ChestNet(lungs=True)
    take_up_lungs(network, weights)
    assert network.lungs is not None
    lungs_found = lungs.dice_of(network.lungs.eval(), batch(1)[0, 0], np.minimum(draw_mask(224), 1))
    assert 0 < lungs_found <= 1


def test_the_same_run_makes_the_same_file_and_none_is_overwritten(
    data: Path, masks: Path, weights: Path, tmp_path: Path
) -> None:
    once = dataclasses.replace(SHORT, epochs=1)
    for name in ("one", "other"):
        lungs.run(data, masks, tmp_path / name, once, progress=False)
    one, other = ((tmp_path / name / "lungs.safetensors").read_bytes() for name in ("one", "other"))
    assert one == other
    with pytest.raises(InvalidData, match=r"lungs\.safetensors: exists already"):
        lungs.run(data, masks, weights.parent, once, progress=False)
    with pytest.raises(InvalidData, match="fewer than a batch of 64"):
        lungs.run(data, masks, tmp_path / "large", dataclasses.replace(once, batch_size=64), progress=False)


def test_a_run_remembers_whose_lungs_it_looks_at_and_leaves_them_as_they_are(best: Path, weights: Path) -> None:
    progress, record = read_progress(best), record_behind(weights)
    assert record is not None
    assert progress.segmentation == record.to_dict()
    assert record_behind(best) == record
    own, theirs = load_file(best), load_file(weights)
    assert all(torch.equal(own[name], value) for name, value in theirs.items())


def test_lungs_that_have_seen_the_validation_patients_are_refused(data: Path, weights: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"its lungs have seen patients that are for validation here; use seed 42"):
        train.run(data, tmp_path, dataclasses.replace(LOOKS, seed=7), Beginnings(lungs=weights), progress=False)


def test_a_run_goes_on_with_the_same_lungs_only(best: Path, data: Path, weights: Path, tmp_path: Path) -> None:
    record = record_behind(weights)
    assert record is not None
    state = {name.removeprefix("lungs."): value for name, value in load_file(weights).items()}
    save_lungs(tmp_path / "other.safetensors", state, dataclasses.replace(record, epochs=9))
    with pytest.raises(InvalidData, match="had other weights that find lungs"):
        train.run(
            data, best.parent, LOOKS, Beginnings(lungs=tmp_path / "other.safetensors"), resume=True, progress=False
        )


def test_a_recipe_and_its_lungs_must_fit(best: Path, weights: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"recipe lungs: needs weights that find lungs \(--lungs"):
        train.run(data, tmp_path, LOOKS, progress=False)
    fixed = dataclasses.replace(LOOKS, fixed=("lungs.", "net.conv1."))
    with pytest.raises(InvalidData, match=r"recipe lungs: fixed layers need weights to begin with"):
        train.run(data, tmp_path, fixed, Beginnings(lungs=weights), progress=False)
    with pytest.raises(InvalidData, match="recipe seed: does not look at the lungs"):
        train.run(data, tmp_path, RECIPES["seed"], Beginnings(lungs=weights), progress=False)
    with pytest.raises(InvalidData, match=r"none\.safetensors: cannot be read as weights"):
        train.run(data, tmp_path, LOOKS, Beginnings(lungs=tmp_path / "none.safetensors"), progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("few_ranges")
def test_the_model_looks_at_lungs_on_every_engine_and_its_card_says_so(
    best: Path, weights: Path, data: Path, tmp_path: Path
) -> None:
    card = load_card(export_model(best, data, tmp_path, NewVersion("toy", "0.1.0", lungs=weights)))
    record = record_behind(weights)
    assert record is not None
    assert card.lungs
    assert card.raw["segmentation"] == {**record.to_dict(), "digest": record.digest}
    assert {"lungs", "crop", "exposure"} < set(card.raw["preprocessing"])
    assert record_behind(card.folder / "model.safetensors") == record
    prove(card)
    assert (card.folder / "model.onnx").stat().st_size < 250_000, "its weights are in the other file"
    images = batch(3)
    with torch.inference_mode():
        expected = Outputs(*(each.numpy() for each in load_network(card)(torch.from_numpy(images))))
    answers = onnx_predictor(card.folder / "model.onnx", threads=1)(images)
    assert (answers.evidence.shape, answers.lungs.shape, answers.box.shape) == ((3, 10, 10), (3, 112, 112), (3, 4))
    for name in ("logits", "evidence", "box", "lungs"):
        np.testing.assert_allclose(getattr(answers, name), getattr(expected, name), atol=5e-3, err_msg=name)
    np.testing.assert_allclose(answers.outlier, expected.outlier, rtol=0.05)
    own = seen_images_of(card)
    assert own is not None
    assert own.complete, "the lungs learnt from the same images"
    assert not lungs_had_known_data(dataclasses.replace(read_progress(best), data_digest="b", parts=["b"]), record)
    # A run that lacks the record gets it from the file, if the weights are the same.
    progress = dataclasses.replace(read_progress(best), segmentation={})
    bare = tmp_path / "bare.safetensors"
    save_tensors(bare, load_file(best), {"progress": progress.to_json()})
    other = {name.removeprefix("lungs."): value + 1 for name, value in load_file(weights).items()}
    save_lungs(tmp_path / "other.safetensors", other, record)
    with pytest.raises(InvalidData, match="is not the record of the weights that find lungs in this run"):
        export_model(bare, data, tmp_path, NewVersion("toy", "0.2.0", lungs=tmp_path / "other.safetensors"))
    # The next run begins with all of it.
    second = train.run(data, tmp_path / "on", LOOKS, Beginnings(card.folder / "model.safetensors"), progress=False)
    assert read_progress(second).segmentation == record.to_dict()


def test_a_card_s_record_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="does not hold weights that find lungs"):
        record_behind(tmp_path / "none.safetensors")
    with pytest.raises(InvalidModel, match="no such model folder"):
        record_behind(tmp_path / "none" / "model.safetensors")
