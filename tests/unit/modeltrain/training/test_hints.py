"""What a teacher sees is learnt, not only what it says; and from images of which nobody knows the class, too."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy

from dicom_io.errors import InvalidData
from modeltrain.data.samples import UNLABELLED, Images, Sample
from modeltrain.data.seen_images import keys_of, seen_images_of
from modeltrain.data.sources import Source, Sources, readable, sources_of
from modeltrain.data.unlabelled import refuse_known, unlabelled_source
from modeltrain.export.card_contents import training
from modeltrain.export.export import export_model, refit
from modeltrain.model.card import load_card, shipped_model
from modeltrain.network.architectures import ChestNet
from modeltrain.training import train
from modeltrain.training.batches import batches, order_of, unlabelled_batches
from modeltrain.training.checkpoint import (
    Progress,
    learnt_from_nothing_else,
    progress_of_model,
    read_progress,
    same_run,
)
from modeltrain.training.hints import Hints
from modeltrain.training.learner import Learner
from modeltrain.training.recipe import RECIPES
from modeltrain.training.teachers import Teachers
from tests.unit.modeltrain.toys import batch, lively_network, write_class
from tests.unit.modeltrain.training.test_teachers import PUPIL as ASKING
from tests.unit.modeltrain.training.test_teachers import TEACHER
from tests.unit.modeltrain.training.test_train import QUICK, kill_in_second_epoch
from worker.cli.retrain import _sources
from worker.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("one_thread")

PUPIL = dataclasses.replace(ASKING, hint_weight=0.5, unlabelled=0.5)


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The best weights of a run of another architecture."""
    return train.run(data, tmp_path_factory.mktemp("runs") / "teacher", TEACHER, progress=False)


@pytest.fixture(scope="module")
def both(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Sources:
    """Labelled images, and ten without labels, some of them in a folder within the folder."""
    folder = tmp_path_factory.mktemp("unlabelled")
    write_class(folder, [f"{number}.png" for number in range(7)], opacity=False, first=300)
    write_class(folder / "more", [f"{number}.png" for number in range(3)], opacity=True, first=400)
    return Sources(sources_of(data).parts, unlabelled_source(folder))


def test_a_hint_is_the_part_of_the_variance_that_is_not_told() -> None:
    network = lively_network()
    hints = Hints(network, network, "cpu")
    tells = [tell for tell in hints.tell if isinstance(tell, nn.Conv2d)]
    images = torch.from_numpy(batch(3))
    with torch.no_grad():
        maps = network.taps(images)[-2:]
        assert float(hints.loss()) > 0.5
        for tell, own in zip(tells, maps[::-1], strict=True):
            spread, mean = torch.std_mean(own, dim=(0, 2, 3), correction=0)
            tell.weight.copy_(torch.diag(1 / (spread.square() + 1e-5).sqrt())[..., None, None])
            assert tell.bias is not None
            tell.bias.copy_(-mean / (spread.square() + 1e-5).sqrt())
        assert float(hints.loss()) == pytest.approx(0, abs=1e-4), "all of it is told"
        for parameter in hints.parameters():
            parameter.zero_()
        assert float(hints.loss()) == pytest.approx(1, abs=0.05), "nothing is, but for channels that are always zero"


@pytest.mark.parametrize(
    ("pupil", "teacher", "channels"),
    [
        ("resnet18", "efficientnet_lite0", [(512, 1280), (256, 112)]),
        ("resnet18", "densenet121", [(512, 1024)]),
        ("efficientnet_b0", "resnet34", [(1280, 512)]),
    ],
)
def test_maps_are_matched_from_the_last_one_on(pupil: str, teacher: str, channels: list[tuple[int, int]]) -> None:
    networks = ChestNet(pupil), ChestNet(teacher).eval()
    hints = Hints(*networks, "cpu")
    tells = [tell for tell in hints.tell if isinstance(tell, nn.Conv2d)]
    assert [(tell.in_channels, tell.out_channels) for tell in tells] == channels
    assert (networks[0].training, networks[1].training) == (True, False)
    images = torch.from_numpy(batch(2))
    for network in networks:
        network(images)
    loss = hints.loss()
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    assert networks[0].last_layer is networks[0].depths[-1]
    assert all(tell.weight.grad is not None for tell in tells)


def test_a_run_with_hints_and_unlabelled_images_goes_on_to_the_same_weights(
    teacher: Path, both: Sources, data: Path, tmp_path: Path
) -> None:
    whole = train.run(both, tmp_path / "whole", PUPIL, teachers=[teacher], progress=False)
    kill_in_second_epoch(both, tmp_path / "killed", PUPIL, teachers=[teacher])
    assert both.unlabelled is not None
    other = dataclasses.replace(both, unlabelled=dataclasses.replace(both.unlabelled, digest="another"))
    with pytest.raises(InvalidData, match="was made with other images without labels"):
        train.run(other, tmp_path / "killed", PUPIL, teachers=[teacher], resume=True, progress=False)
    resumed = train.run(both, tmp_path / "killed", PUPIL, teachers=[teacher], resume=True, progress=False)
    assert resumed.read_bytes() == whole.read_bytes()
    with pytest.raises(InvalidData, match=r"best_model\.safetensors was taught on other images without labels"):
        export_model(whole, data, tmp_path, name="toy", version="0.1.0")
    card = load_card(export_model(whole, both, tmp_path, name="toy", version="0.1.0"))
    assert card.raw["training"]["unlabelled"] == both.unlabelled.digest
    assert card.raw["data"]["unlabelled"] == both.unlabelled.name
    assert both.unlabelled.name.startswith("10 images without labels in folder unlabelled")
    assert progress_of_model(card.folder).unlabelled == both.unlabelled.digest
    learnt = seen_images_of(card)
    assert learnt is not None
    assert learnt.complete
    keys = np.concatenate(keys_of(both.unlabelled))
    assert len(keys) == 10
    assert np.isin(keys, learnt.keys).all(), "nobody is judged on what it was taught on"
    again = load_card(refit(card.folder, data, tmp_path, version="0.2.0", mirror=True))
    assert again.raw["data"]["unlabelled"] == both.unlabelled.name
    told = seen_images_of(again)
    assert told is not None
    assert told.complete
    np.testing.assert_array_equal(told.keys, learnt.keys)


def test_each_part_of_the_loss_has_its_weight(teacher: Path, both: Sources, data: Path) -> None:
    assert both.unlabelled is not None
    recipe = dataclasses.replace(PUPIL, weight_normal=1.0, label_smoothing=0.0, ema=0.0)
    asked = Teachers([teacher], recipe, [both.digest], "cpu")
    pupil = Learner(recipe, "cpu", asked)
    assert pupil.hints is not None
    labelled = Images(sources_of(data).split(0.1, 1).train[:8], 10**7)
    unknown = Images(both.unlabelled.samples, 10**7)
    (shown,) = batches(labelled, order_of(labelled.samples, recipe, 0), recipe, 0)
    (others,) = unlabelled_batches(unknown, recipe, 0, 1)
    assert others is not None
    pupil.network.train()
    parts = []
    with torch.no_grad():
        for each in (shown, others):
            logits = pupil.network(each.images).logits
            taught = cross_entropy(logits, asked.probability(each.images))
            known = cross_entropy(logits, each.labels) if each is shown else torch.zeros(())
            parts.append(0.3 * known + 0.7 * taught + 0.5 * pupil.hints.loss())
        torch.testing.assert_close(pupil._loss(shown), parts[0])
        torch.testing.assert_close(pupil._unlabelled_loss(others, asked), parts[1])
    loss, _ = pupil.learn(labelled, 0, unlabelled=unknown, progress=False)
    assert loss == pytest.approx(float(parts[0] + 0.5 * parts[1]), abs=1e-4)
    before = [value.clone() for value in pupil.hints.state_dict().values()]
    pupil.learn(labelled, 1, progress=False)
    assert not torch.equal(before[0], next(iter(pupil.hints.state_dict().values()))), "the map is learnt, too"


def test_images_without_labels_leave_the_norms_statistics_alone(teacher: Path, both: Sources) -> None:
    assert both.unlabelled is not None
    asked = Teachers([teacher], PUPIL, [both.digest], "cpu")
    pupil = Learner(PUPIL, "cpu", asked)
    pupil.network.train()
    before = {name: value.clone() for name, value in pupil.network.named_buffers() if "running" in name}
    unknown = Images(both.unlabelled.samples, 10**7)
    (shown,) = unlabelled_batches(unknown, PUPIL, 0, 1)
    assert shown is not None
    assert shown.images.shape == (4, 1, 32, 32)
    assert shown.labels.tolist() == [UNLABELLED] * 4
    pupil._unlabelled_loss(shown, asked).backward()  # type: ignore[no-untyped-call]
    after = dict(pupil.network.named_buffers())
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert pupil.network.net.conv1.weight.grad is not None
    assert all(each.momentum == 0.1 for each in pupil.network.modules() if isinstance(each, nn.BatchNorm2d))


def test_every_image_without_a_label_is_shown_before_one_comes_again(both: Sources) -> None:
    assert both.unlabelled is not None
    images = Images(both.unlabelled.samples, 10**7)
    shown = [each for each in unlabelled_batches(images, PUPIL, 0, 5) if each]
    indices = [int(index) for each in shown for index in each.indices]
    assert sorted(indices[:10]) == sorted(indices[10:]) == list(range(10))
    other = [int(index) for each in unlabelled_batches(images, PUPIL, 1, 5) if each for index in each.indices]
    assert indices != other
    assert list(unlabelled_batches(None, PUPIL, 0, 3)) == [None, None, None]


def test_what_cannot_be_taught_on_is_refused(teacher: Path, both: Sources, data: Path, tmp_path: Path) -> None:
    def run(sources: Sources, **changes: Any) -> None:
        train.run(sources, tmp_path / "run", dataclasses.replace(PUPIL, **changes), teachers=[teacher], progress=False)

    labelled = sources_of(data)
    with pytest.raises(InvalidData, match="pupil: learns from no images without labels"):
        run(both, unlabelled=0.0)
    with pytest.raises(InvalidData, match="pupil: hints and images without labels need distillation from teachers"):
        run(both, taught_by="start")
    split = labelled.split(PUPIL.validation_fraction, PUPIL.seed)
    held = split.validation[0]
    leaked = tmp_path / "leaked"
    write_class(leaked, ["other.png"], opacity=False, first=77)
    (leaked / "same.png").write_bytes(held.path.read_bytes())
    with pytest.raises(InvalidData, match=rf"folder leaked: same\.png is {held.path.name}, which is for validation"):
        run(Sources(labelled.parts, unlabelled_source(leaked)))
    (leaked / "same.png").write_bytes(split.train[0].path.read_bytes())
    with pytest.raises(InvalidData, match=rf"same\.png is {split.train[0].path.name}, which is for training"):
        run(Sources(labelled.parts, unlabelled_source(leaked)))
    name = f"{held.patient}-0009.png" if held.label == 0 else f"{held.patient}_virus_9.png"
    (leaked / "same.png").rename(leaked / name)
    (leaked / name).write_bytes((leaked / "other.png").read_bytes())
    with pytest.raises(InvalidData, match=rf"{name} is of the patient of .*, which is for validation"):
        run(Sources(labelled.parts, unlabelled_source(leaked)))
    (leaked / name).unlink()
    (leaked / ".hidden.png").write_bytes(b"")
    (leaked / "same.png").write_bytes(b"not a picture")
    broken = unlabelled_source(leaked)
    with pytest.raises(InvalidData, match=r"1 image\(s\) cannot be read: .*same\.png"):
        readable(broken, skip=False)
    left = readable(broken, skip=True)
    assert [sample.path.name for sample in left.samples] == ["other.png"]
    assert left.name == "2 images without labels in folder leaked, without 1 unreadable image(s)"
    (leaked / "other.png").write_bytes(b"not a picture either")
    with pytest.raises(InvalidData, match="no image can be read"):
        readable(unlabelled_source(leaked), skip=True)
    with pytest.raises(InvalidData, match=r"none: holds no JPEG or PNG file"):
        unlabelled_source(tmp_path / "none")
    assert not (tmp_path / "run").exists()


def test_images_without_labels_are_learnt_from() -> None:
    def begun(unlabelled: str) -> Progress:
        start = {"data_digest": "a", "parts": ["a"], "unlabelled": "u"}
        return Progress({}, "a", start=start, parts=["a"], unlabelled=unlabelled)

    assert learnt_from_nothing_else(begun("u"))
    assert not learnt_from_nothing_else(begun(""))
    assert same_run({"parts": []}, {"unlabelled": ""}), "earlier versions knew of none"
    assert not same_run({"unlabelled": "u"}, {"unlabelled": ""})


def test_who_was_taught_on_what_is_divided_here_is_refused(teacher: Path, data: Path, tmp_path: Path) -> None:
    told = read_progress(teacher)
    told.data_digest, told.parts, told.unlabelled = "another", [], sources_of(data).digest
    path = tmp_path / "taught.safetensors"
    train._save(path, load_file(teacher), told.to_json())
    recipe = dataclasses.replace(QUICK, arch="efficientnet_lite0")
    with pytest.raises(InvalidData, match=r"taught\.safetensors: was taught on images that are divided into training"):
        train.run(data, tmp_path / "run", recipe, start=path, progress=False)


def test_the_command_reads_both_folders_and_leaves_the_test_alone(data: Path, both: Sources, tmp_path: Path) -> None:
    assert both.unlabelled is not None
    loaded = Settings()
    folder = both.unlabelled.samples[0].path.parent
    read = _sources(loaded, str(data), None, folder, skip=False)
    assert read.unlabelled is not None
    assert (read.digest, read.without_labels) == (both.digest, both.unlabelled.digest)
    assert read.unlabelled.samples == both.unlabelled.samples
    leaked = tmp_path / "leaked"
    leaked.mkdir()
    held = data / "test" / "NORMAL" / "NORMAL2-IM-950-0001.png"
    (leaked / "1.png").write_bytes(held.read_bytes())
    with pytest.raises(InvalidData, match=r"1\.png is NORMAL2-IM-950-0001\.png, which is for the test"):
        _sources(loaded, str(data), None, leaked, skip=False)
    (tmp_path / "list.csv").write_text(
        "path,label,split\nleaked/1.png,NORMAL,test\n"
        + "".join(f"{path},{path.parent.name},train\n" for path in sorted((data / "train").glob("*/*.png")))
    )
    with pytest.raises(InvalidData, match=r"1\.png is 1\.png, which is for the test"):
        _sources(loaded, str(tmp_path / "list.csv"), None, leaked, skip=False)


def test_the_recipe_that_comes_with_cxrd_learns_all_this() -> None:
    recipe = RECIPES["distilled"]
    assert recipe.hint_weight
    assert recipe.unlabelled
    assert recipe.taught_by == "teachers"


def test_a_number_for_a_name_tells_no_patient(tmp_path: Path) -> None:
    unknown = Source("u", (Sample(tmp_path / "12.png", UNLABELLED, "12", content="a"),), "digest")
    row = Sample(tmp_path / "x.dcm", 1, "12", content="b")
    refuse_known(unknown, [row], "validation", patients=True)
    named = Source("u", (Sample(tmp_path / "person12_virus_1.png", UNLABELLED, "person12", content="a"),), "digest")
    refuse_known(named, [dataclasses.replace(row, patient="person12")], "validation")
    with pytest.raises(InvalidData, match=r"person12_virus_1\.png is of the patient of x\.dcm, which is for"):
        refuse_known(named, [dataclasses.replace(row, patient="person12")], "validation", patients=True)


def test_no_run_stops_early_while_its_images_are_small(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "_stalled", lambda *_: True)
    recipe = dataclasses.replace(QUICK, stages=((2, 32), (2, 48)), patience=1)
    best = train.run(data, tmp_path / "run", recipe, progress=False)
    history = read_progress(best.with_name("last.safetensors")).history
    assert [line.side for line in history] == [32, 32, 48]
    assert read_progress(best).best.epoch == 3


def test_a_card_says_which_epoch_s_weights_a_model_holds() -> None:
    card = load_card(shipped_model())
    told = progress_of_model(card.folder)
    assert training(told)["best_epoch"] == card.raw["training"]["best_epoch"] == told.kept
    assert Progress.from_json(told.to_json()).kept == told.kept
