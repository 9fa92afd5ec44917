"""What a teacher sees is learnt, not only what it says; and from images of which nobody knows the class, too."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from dicom_io.errors import InvalidData
from modeltrain import train
from modeltrain.batches import unlabelled_batches
from modeltrain.data import UNLABELLED, Images
from modeltrain.export import export_model
from modeltrain.hints import Hints
from modeltrain.learner import Learner
from modeltrain.learnt import keys_of, learnt_of
from modeltrain.network import ChestNet
from modeltrain.progress import Progress, learnt_from_nothing_else, progress_of_model, same_run
from modeltrain.registry import load_card
from modeltrain.source import Sources, readable, sources_of
from modeltrain.teachers import Teachers
from modeltrain.unlabelled import unlabelled_source
from tests.unit.modeltrain_toys import batch, lively_network, write_class
from tests.unit.test_modeltrain_training import QUICK, kill_in_second_epoch

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("one_thread")

PUPIL = dataclasses.replace(
    QUICK, name="pupil", distillation=0.7, taught_by="teachers", hint_weight=0.5, unlabelled=0.5
)


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The best weights of a run of another architecture."""
    recipe = dataclasses.replace(QUICK, name="teacher", arch="efficientnet_lite0", stages=((1, 32),))
    return train.run(data, tmp_path_factory.mktemp("runs") / "teacher", recipe, progress=False)


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
    with pytest.raises(InvalidData, match=r"is not what .*best_model\.safetensors was trained on"):
        export_model(whole, data, tmp_path, name="toy", version="0.1.0")
    card = load_card(export_model(whole, both, tmp_path, name="toy", version="0.1.0"))
    assert card.raw["training"]["unlabelled"] == both.unlabelled.digest
    assert progress_of_model(card.folder).unlabelled == both.unlabelled.digest
    learnt = learnt_of(card)
    assert learnt is not None
    assert learnt.complete
    keys = np.concatenate(keys_of(both.unlabelled))
    assert len(keys) == 10
    assert np.isin(keys, learnt.keys).all(), "nobody is judged on what it was taught on"


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
    held = labelled.split(PUPIL.validation_fraction, PUPIL.seed).validation[0]
    leaked = tmp_path / "leaked"
    write_class(leaked, ["other.png"], opacity=False, first=77)
    (leaked / "same.png").write_bytes(held.path.read_bytes())
    with pytest.raises(InvalidData, match=rf"leaked, without labels: same\.png is {held.path.name}, which is for val"):
        run(Sources(labelled.parts, unlabelled_source(leaked)))
    (leaked / "same.png").write_bytes(b"not a picture")
    broken = unlabelled_source(leaked)
    with pytest.raises(InvalidData, match=r"1 image\(s\) cannot be read: .*same\.png"):
        readable(broken, skip=False)
    left = readable(broken, skip=True)
    assert [sample.path.name for sample in left.samples] == ["other.png"]
    assert left.name == "folder leaked, without labels, without 1 unreadable image(s)"
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
