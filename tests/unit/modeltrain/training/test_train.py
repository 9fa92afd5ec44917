"""A training run in small: one epoch on drawn images, resumed, exported, and the same answers from both files."""

from __future__ import annotations

import dataclasses
import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.quantization.calibrate import HistogramCollector
from safetensors import safe_open
from safetensors.torch import load_file
from torchvision.models import ResNet18_Weights, resnet18

from dicom_io.errors import InvalidData, InvalidModel, OutOfResources
from modeltrain.data.augment import Augmentation, augment
from modeltrain.data.evaluation_set import evaluation_set
from modeltrain.data.samples import Images
from modeltrain.data.seen_images import keys_of, seen_by, seen_images_of
from modeltrain.data.sources import Sources, folder_source, sources_of
from modeltrain.export.export import NewVersion, export_model
from modeltrain.export.int8_file import quantize
from modeltrain.export.onnx_file import onnx_predictor, rounded, write_weights
from modeltrain.model.card import load_card, shipped_model
from modeltrain.model.outputs import Outputs
from modeltrain.model.registry import version_name
from modeltrain.network.architectures import build, load_network
from modeltrain.training import train
from modeltrain.training.batches import batches, order_of
from modeltrain.training.beginnings import Beginnings
from modeltrain.training.checkpoint import (
    Progress,
    only_own_data,
    read_progress,
    runs_behind,
    with_times,
)
from modeltrain.training.learner import Learner, _border_share
from modeltrain.training.lineage import code_commit, line_of
from modeltrain.training.optimizer import learning_rate
from modeltrain.training.recipe import RECIPES, Recipe, recipe_named
from tests.support.disk import fill, small_disk
from tests.unit.modeltrain.toys import ancestor, batch, kaggle_folder, write_class

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = Recipe(
    name="quick",
    stages=((2, 32),),
    batch_size=8,
    optimizer="adamw",
    learning_rate=1e-3,
    weight_decay=0.05,
    schedule="onecycle",
    label_smoothing=0.05,
    ema=0.99,
    patience=0,
    validation_fraction=0.1,
    augmentation=Augmentation(
        rotation=12.0, scale=0.12, shift=0.06, gamma=0.3, resample=0.3, blur=0.2, noise=0.3, jpeg=0.2
    ),
)


@pytest.fixture(scope="module")
def best(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The best weights of a quick run."""
    return train.run(data, tmp_path_factory.mktemp("runs") / "quick", QUICK, progress=False)


@pytest.fixture(scope="module")
def folder(best: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder made of it, judged on the locked test part."""
    models = tmp_path_factory.mktemp("models")
    return export_model(best, data, models, NewVersion("toy", "0.1.0", locked_test=True))


def test_a_run_leaves_weights_state_and_curves(best: Path) -> None:
    assert {path.name for path in best.parent.iterdir()} == {
        "best_model.safetensors",
        "last.safetensors",
        "tensorboard",
    }
    progress = read_progress(best.parent / "last.safetensors")
    assert [line.epoch for line in progress.history] == [1, 2]
    assert progress.recipe["name"] == "quick"
    assert all(np.isfinite(line.validation_loss) for line in progress.history)
    assert list((best.parent / "tensorboard").iterdir())


def kill_in_second_epoch(data: Path | Sources, out: Path, recipe: Recipe, **options: Any) -> None:
    """Begin a run that ends in its second epoch."""

    class Killed(Exception):
        pass

    def killed(self: Learner, images: object, epoch: int, **options: Any) -> tuple[float, float]:
        if epoch == 1:
            raise Killed
        return learn(self, images, epoch, **options)  # type: ignore[arg-type]

    learn = Learner.learn
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "learn", killed)
        with pytest.raises(Killed):
            train.run(data, out, recipe, progress=False, **options)


def test_a_killed_run_goes_on_to_the_same_weights(best: Path, data: Path, tmp_path: Path) -> None:
    kill_in_second_epoch(data, tmp_path, QUICK)
    with pytest.raises(InvalidData, match="holds a training run; continue it with --resume"):
        train.run(data, tmp_path, QUICK, progress=False)
    with pytest.raises(InvalidData, match=r"recipe differs in .*seed"):
        train.run(data, tmp_path, dataclasses.replace(QUICK, seed=1), resume=True, progress=False)
    resumed = train.run(data, tmp_path, QUICK, resume=True, progress=False)
    assert resumed.read_bytes() == best.read_bytes(), "no time of the clock, and no name of a folder"
    one, other = load_file(best.parent / "last.safetensors"), load_file(resumed.parent / "last.safetensors")
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=0, atol=0, msg=name)


def test_a_run_that_began_with_other_weights_goes_on_with_these_alone(best: Path, data: Path, tmp_path: Path) -> None:
    kill_in_second_epoch(data, tmp_path, QUICK, beginnings=Beginnings(best))
    other = train.run(data, tmp_path / "other", dataclasses.replace(QUICK, stages=((1, 32),)), progress=False)
    with pytest.raises(InvalidData, match="the run began with other weights"):
        train.run(data, tmp_path, QUICK, Beginnings(other), resume=True, progress=False)
    assert train.run(data, tmp_path, QUICK, Beginnings(best), resume=True, progress=False).exists()
    assert len(read_progress(tmp_path / "last.safetensors").history) == 2


@pytest.mark.parametrize("lends", [False, True])
def test_only_a_recipe_with_tone_or_margins_has_images_lend_each_other_anything(data: Path, *, lends: bool) -> None:
    """An earlier recipe's images are the ones that they were: no further chance is drawn."""
    samples = sources_of(data).split(0.1, 42).train
    images = Images(samples, 10**8)
    how = dataclasses.replace(QUICK.augmentation, tone=1.0 if lends else 0.0)
    recipe = dataclasses.replace(QUICK, augmentation=how)
    order = order_of(samples, recipe, 0)
    first = next(iter(batches(images, order, recipe, 0)))
    for place, (image, index) in enumerate(zip(first.images.numpy(), order, strict=False)):
        alone = augment(images[index], 32, how, np.random.default_rng([recipe.seed, 0, place]))
        assert np.array_equal(image, alone) != lends


def test_a_run_that_begins_with_other_weights_remembers_theirs(best: Path, data: Path, tmp_path: Path) -> None:
    still = dataclasses.replace(QUICK, stages=((1, 32),), learning_rate=0.0, ema=1.0)
    went_on = train.run(data, tmp_path / "on", still, Beginnings(best), progress=False)
    one, other = load_file(best), load_file(went_on)
    assert all(torch.equal(value, other[name]) for name, value in one.items() if value.is_floating_point())
    progress = read_progress(went_on)
    (first,) = progress.ancestors
    assert (first.run, first.recipe, first.model) == (progress.began_with, "quick", "")
    assert first.run == read_progress(best).digest
    with pytest.raises(InvalidData, match="patients that are for validation here"):
        train.run(data, tmp_path / "leak", dataclasses.replace(still, seed=1), Beginnings(best), progress=False)


def test_a_run_can_begin_with_a_model_folder(folder: Path, best: Path, data: Path, tmp_path: Path) -> None:
    once = dataclasses.replace(QUICK, stages=((1, 32),))
    second = train.run(data, tmp_path / "run", once, Beginnings(folder / "model.safetensors"), progress=False)
    progress = read_progress(second)
    (first,) = progress.ancestors
    card = load_card(folder)
    assert (first.model, first.run) == (version_name(card), progress.began_with)
    assert first.run == card.raw["training"]["run"] == read_progress(best).digest, (
        "of one run, whatever it is read from"
    )
    assert first.commit == card.raw["training"]["commit"] == progress.commit == code_commit()
    assert train.run(
        data, tmp_path / "run", once, Beginnings(folder / "model.safetensors"), resume=True, progress=False
    )
    other = dataclasses.replace(once, arch="resnet34")
    with pytest.raises(InvalidData, match="does not hold weights of the architecture resnet34"):
        train.run(data, tmp_path / "other", other, Beginnings(folder / "model.safetensors"), progress=False)


def test_a_full_disk_leaves_the_checkpoint_before_it(
    best: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    size = sum(path.stat().st_size for path in best.parent.glob("*.safetensors"))
    with small_disk(tmp_path / "disk", size + best.stat().st_size // 2) as disk:
        with pytest.raises(OutOfResources, match=r"\.safetensors: cannot be written \(.*No space left on device"):
            train.run(data, disk / "run", QUICK, progress=False)
        files = {path.name for path in (disk / "run").iterdir()}
        assert files == {"best_model.safetensors", "last.safetensors", "tensorboard"}, "no part of a file is left"
        assert len(read_progress(disk / "run" / "last.safetensors").history) == 1
        filling = fill(disk)
        with pytest.raises(OutOfResources, match="tensorboard: cannot be written"):
            train.run(data, disk / "run", QUICK, resume=True, progress=False)
        assert "Traceback" not in capfd.readouterr().err
        filling.unlink()
        shutil.copytree(disk / "run", tmp_path / "run")
    resumed = train.run(data, tmp_path / "run", QUICK, resume=True, progress=False)
    assert len(read_progress(resumed.parent / "last.safetensors").history) == 2
    assert resumed.read_bytes() == best.read_bytes()


def test_a_full_disk_leaves_no_half_of_a_model(best: Path, data: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", best.stat().st_size // 4) as disk:
        with pytest.raises(OutOfResources, match=r"toy-0.2: cannot be written \(.*No space left on device"):
            export_model(best, data, disk, NewVersion("toy", "0.2"))
        assert list(disk.iterdir()) == []


def test_hours_are_those_of_the_other_file(best: Path, folder: Path, tmp_path: Path) -> None:
    state = read_progress(best)
    assert [line.seconds for line in state.history] == [None] * len(state.history)
    last = best.with_name("last.safetensors")
    assert all(line.seconds for line in with_times(state, last).history)
    assert with_times(state, tmp_path / "none") == state
    assert load_card(folder).raw["training"]["hours"] is not None


def test_the_border_s_share_of_the_evidence_is_learnt_away(data: Path) -> None:
    evidence = torch.zeros(2, 7, 7)
    evidence[0, 3, 3] = evidence[1, 0, 0] = 1
    assert float(_border_share(evidence[:1])) == pytest.approx(0, abs=1e-3)
    assert float(_border_share(evidence[1:])) == pytest.approx(1 - 0.3**2, abs=1e-3)
    assert float(_border_share(torch.ones(1, 7, 7))) == pytest.approx(0.36, abs=1e-3)
    assert float(_border_share(torch.ones(1, 5, 5))) == pytest.approx(0.36, abs=1e-3)


def test_a_balanced_epoch_shows_each_class_as_often(data: Path) -> None:
    samples = sources_of(data).split(0.1, 1).train
    uneven = [sample for sample in samples if sample.label or sample.patient.endswith(("1", "2"))]
    recipe = dataclasses.replace(QUICK, balanced=True)
    order = order_of(uneven, recipe, 0)
    labels = [uneven[index].label for index in order]
    assert labels.count(0) == labels.count(1) == sum(sample.label == 0 for sample in uneven)
    assert len(set(order)) == len(order)
    assert order == order_of(uneven, recipe, 0) != order_of(uneven, recipe, 1)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["densenet121", "efficientnet_b0", "convnext_tiny", "efficientnet_lite0"])
def test_other_architectures_learn_and_export(arch: str, data: Path, tmp_path: Path) -> None:
    recipe = dataclasses.replace(QUICK, arch=arch, stages=((1, 32),), batch_size=4)
    learner = Learner(recipe, "cpu")
    images = Images(sources_of(data).split(0.1, 1).train[:4], 10**7)
    loss, _ = learner.learn(images, 0, progress=False)
    assert np.isfinite(loss)
    state = rounded({key: value.contiguous() for key, value in learner.average.state_dict().items()})
    write_weights(state, tmp_path, arch)
    answers = onnx_predictor(tmp_path / "model.onnx", threads=1)(batch(2))
    assert answers.evidence.shape == (2, 7, 7)
    assert np.isfinite(answers.logits).all()
    learner.average.load_state_dict({key: value.float() for key, value in state.items()})  # as rounded as the file's
    with torch.inference_mode():
        expected = learner.average.eval()(torch.from_numpy(batch(2)))
    np.testing.assert_allclose(answers.logits, expected.logits.numpy(), rtol=1e-4, atol=1e-4)


def test_training_stops_when_validation_no_longer_improves(best: Path) -> None:
    history = read_progress(best).history
    lines = [dataclasses.replace(history[0], epoch=n, validation_auc=auc) for n, auc in ((1, 0.9), (2, 0.7), (3, 0.8))]
    progress = Progress({}, "", lines)
    assert progress.best.epoch == 1
    larger = Progress({}, "", [*lines, dataclasses.replace(lines[1], epoch=4, side=64)])
    assert larger.best.epoch == 4, "small images are for the beginning"
    assert train._stalled(progress, patience=2)
    assert not train._stalled(progress, patience=3)
    assert not train._stalled(progress, patience=0)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_nearly_nothing() -> None:
    rates = [learning_rate(QUICK, done) for done in np.linspace(0, 1, 101)]
    assert max(rates) == pytest.approx(1e-3)
    assert int(np.argmax(rates)) == 20
    assert rates[-1] < 2e-6 < rates[0] < 1e-4
    assert learning_rate(RECIPES["seed"], 0.7) == 1e-4


def test_an_unreadable_training_picture_is_named(tmp_path: Path) -> None:
    root = kaggle_folder(tmp_path / "data", patients=3)
    (root / "train" / "NORMAL" / "IM-0001-0001.png").write_bytes(b"nonsense")
    with pytest.raises(InvalidData, match=r"IM-0001-0001\.png"):
        train.run(root, tmp_path / "run", dataclasses.replace(QUICK, stages=((1, 32),)), progress=False)


def test_imagenet_weights_that_cannot_be_had_are_an_error_that_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", unreachable)
    with pytest.raises(InvalidModel, match=r"no route to host.*init random"):
        build("imagenet", 0)


def test_recipes_are_found_by_name_and_changed_within_reason() -> None:
    assert recipe_named("seed") == Recipe()
    changed = recipe_named("teacher", init="random", epochs=3, seed=7)
    assert (changed.init, changed.epochs, changed.seed, changed.side(2)) == ("random", 3, 7, 224)
    unfit: list[dict[str, Any]] = [{"name": "none"}, {"name": "seed", "init": "guess"}, {"name": "seed", "epochs": 0}]
    for wrong in unfit:
        with pytest.raises(InvalidData):
            recipe_named(**wrong)


def test_both_files_and_torchvision_give_the_same_answers(folder: Path) -> None:
    card = load_card(folder)
    images = batch(3)
    ours = load_network(card)
    plain = resnet18(num_classes=2)
    unmatched = plain.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    assert unmatched.missing_keys == []
    assert {key.split(".")[0] for key in unmatched.unexpected_keys} == {"subtype", "gate"}
    with torch.inference_mode():
        expected = [output.numpy() for output in ours(torch.from_numpy(images))]
        logits = plain.eval()((torch.from_numpy(images) - ours.mean) / ours.std).numpy()
    answers = onnx_predictor(folder / "model.onnx", threads=1)(images)
    for name, output, value in zip(Outputs._fields, answers, expected, strict=True):
        assert output.dtype == np.float32
        np.testing.assert_allclose(output, value, atol=1e-3, rtol=1e-2 if name == "outlier" else 1e-7, err_msg=name)
    np.testing.assert_allclose(logits, expected[0], atol=1e-4)
    assert onnx_predictor(folder / "model.onnx", threads=1)(images[:1]).evidence.shape == (1, 7, 7)


def test_weights_are_small_and_carry_no_path_of_this_machine(folder: Path) -> None:
    model = onnx.load_model(folder / "model.onnx")
    matrices = [
        tensor for tensor in model.graph.initializer if len(tensor.dims) == 4 and tensor.name not in ("mean", "std")
    ]
    assert len(matrices) == 20
    assert {tensor.data_type for tensor in matrices} == {onnx.TensorProto.FLOAT16}
    assert b"/modeltrain/" not in (folder / "model.onnx").read_bytes()
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert file.get_tensor("conv1.weight").dtype == torch.float16
    assert (folder / "model.onnx").stat().st_size < 150_000, "its weights are in the other file"


def test_the_card_says_what_was_done(folder: Path) -> None:
    card = load_card(folder).raw
    assert card["training"]["recipe"]["name"] == "quick"
    assert card["data"]["split"]["train"]["images"] + card["data"]["split"]["validation"]["images"] == 26
    assert card["data"]["split"]["test"] == {"images": 2, "NORMAL": 1, "PNEUMONIA": 1, "patients": 2}
    assert set(card["operating_points"]) == {"screening", "balanced"}
    assert card["operating_points"]["screening"]["threshold"] == card["threshold"]["value"]
    assert {"slope", "intercept"} < set(card["calibration"])
    assert set(card["conformal"]["least_probability"]) == {"NORMAL", "PNEUMONIA"}
    assert card["int8"]["kept"] == ("model.int8.onnx" in card["files"])
    assert card["metrics"]["test"]["n"] == 2
    assert json.loads(json.dumps(card)) == card


@pytest.mark.usefixtures("few_ranges")
def test_the_folder_tells_which_images_were_learnt_from(folder: Path, best: Path, data: Path, tmp_path: Path) -> None:
    card = load_card(folder)
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1, "readable for whom the site's umask says"
    own = seen_images_of(card)
    assert own is not None
    assert own.complete
    training_data, locked = folder_source(data), evaluation_set(data).source
    assert np.array_equal(own.keys, np.unique(np.concatenate(keys_of(training_data))))
    overlap = seen_by(card, locked)
    assert overlap is not None
    assert not overlap.any()
    write_class(tmp_path / "other" / "NORMAL", [f"IM-{i:04d}-0001.png" for i in range(14)], False, first=2000)
    write_class(tmp_path / "other" / "PNEUMONIA", [f"person{i}_virus_{i}.png" for i in range(14)], True, first=2000)
    other = folder_source(tmp_path / "other")
    once = dataclasses.replace(QUICK, stages=((1, 32),))
    went_on = train.run(other, tmp_path / "run", once, Beginnings(folder / "model.safetensors"), progress=False)
    second = load_card(export_model(went_on, other, tmp_path, NewVersion("second", "1.0", began_with=folder)))
    later = seen_images_of(second)
    assert later is not None
    assert later.complete
    assert np.isin(own.keys, later.keys).all(), "what the model it began with had learnt from, it has too"
    assert np.isin(np.concatenate(keys_of(other)), later.keys).all()
    assert len(later.keys) == len(own.keys) + len(other.samples)


def test_only_the_runs_that_had_the_same_data_are_told_by_its_record() -> None:
    def began(*earlier: list[str]) -> Progress:
        return Progress({}, "a-b", parts=["a", "b"], ancestors=[ancestor("-".join(parts), parts) for parts in earlier])

    assert only_own_data(began())
    assert only_own_data(began(["a"], ["a", "b"]))
    assert not only_own_data(began(["a", "c"]))
    assert not only_own_data(began(["c"], ["a"]))


def test_the_calibration_holds_few_images_at_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    collect = HistogramCollector.collect

    def counted(self: Any, tensors: dict[str, list[Any]]) -> Any:
        held.append(max(len(each) for each in tensors.values()))
        return collect(self, tensors)

    monkeypatch.setattr(HistogramCollector, "collect", counted)
    quantize(folder / "model.onnx", tmp_path / "int8.onnx", list(batch(14)))
    assert held == [7, 7]
    both = [onnx_predictor(path) for path in (folder / "model.onnx", tmp_path / "int8.onnx")]
    scores = [predict(batch(14)).logits for predict in both]
    assert np.abs(scores[0] - scores[1]).max() < 0.1
    # Far outside of the calibration's range the gate still tells by how much.
    noise = np.random.default_rng(0).random((3, 1, 224, 224), np.float32)
    outside = [predict(noise).outlier for predict in both]
    assert (outside[0] > 3).all()
    np.testing.assert_allclose(outside[1], outside[0], rtol=0.2)


def test_a_version_is_never_written_twice(folder: Path, best: Path, data: Path) -> None:
    with pytest.raises(InvalidData, match="exists already"):
        export_model(best, data, folder.parent, NewVersion("toy", "0.1.0"))
    assert [path.name for path in folder.parent.iterdir()] == ["toy-0.1.0"]


def test_only_the_data_of_the_run_makes_its_card(best: Path, tmp_path: Path) -> None:
    other = kaggle_folder(tmp_path / "other", patients=5)
    with pytest.raises(InvalidData, match=r"is not what .* was trained on"):
        export_model(best, other, tmp_path / "models", NewVersion("toy", "0.1.0"))
    with pytest.raises(InvalidData, match="name it with"):
        export_model(best, other, tmp_path / "models", NewVersion("../toy", "0.1.0"))
    (tmp_path / "weights.safetensors").write_bytes(b"nonsense")
    with pytest.raises(InvalidData, match="not a file of a training run"):
        export_model(tmp_path / "weights.safetensors", other, tmp_path / "models", NewVersion("toy", "0.1.0"))
    assert not (tmp_path / "models").exists()


def test_no_run_stops_early_while_its_images_are_small(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "_stalled", lambda *_: True)
    recipe = dataclasses.replace(QUICK, stages=((2, 32), (2, 48)), patience=1)
    best = train.run(data, tmp_path / "run", recipe, progress=False)
    history = read_progress(best.with_name("last.safetensors")).history
    assert [line.side for line in history] == [32, 32, 48]
    assert read_progress(best).best.epoch == 3


def test_the_shipped_card_lists_the_runs_that_its_weights_come_from() -> None:
    card = load_card(shipped_model())
    own, *earlier = runs_behind(card.folder / "model.safetensors")
    assert (own.seed, own.model) == (42, version_name(card))
    assert line_of([own.run], [own, *earlier]) == [own, *earlier], "each is named by one that came later"
    assert all(len(run.commit.removesuffix("-dirty")) == 40 for run in (own, *earlier)), "what made them is there"
    assert (card.folder / "model.json").stat().st_size < 24_000
