"""A site's models: immutable, named by content, exchanged in one step; and the test that a candidate must pass."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from sklearn.metrics import roc_auc_score

from dicom_io.errors import InvalidData, InvalidModel, InvalidSettings, OutOfResources
from modeltrain.data.samples import Sample
from modeltrain.evaluation.compare import compare, delong
from modeltrain.evaluation.evaluate import Answers
from modeltrain.model.card import CARD, INT8, ONNX, SAFETENSORS, file_digest, shipped_model, weights_digest
from modeltrain.model.registry import Registry
from tests.support.models import tiny

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def drawn(n: int, gap: float, seed: int, base: NDArray[np.float64] | None = None) -> NDArray[np.float32]:
    """Scores of n // 2 NORMAL and n // 2 PNEUMONIA images, correlated with `base` where there is one."""
    noise = np.random.default_rng(seed).normal(0, 1, n)
    noise = noise if base is None else 0.8 * base + 0.6 * noise
    return (1 / (1 + np.exp(-(noise + gap * np.repeat([0, 1], n // 2))))).astype(np.float32)


def answers(probability: NDArray[np.float32]) -> Answers:
    n = len(probability)
    samples = tuple(Sample(CARD, int(i >= n // 2), f"p{i}") for i in range(n))  # type: ignore[arg-type]  # never read
    return Answers(samples, probability, np.zeros((n, 7, 7), np.float32))


def test_the_shipped_model_serves_until_another_is_promoted(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "site")
    assert registry.current() == shipped_model()
    assert registry.stamp() is None
    added = registry.add(tiny(tmp_path / "new", bias=0.5))
    assert added.name == f"{added.card.label}-{added.card.sha256[:12]}"
    assert registry.current() == shipped_model(), "adding is not promoting"
    assert [version.shipped for version in registry.all()].count(False) == 1
    before = registry.all()[0]
    registry.promote(added, {"from": before.name, "kind": "promoted"})
    assert registry.current() == tmp_path / "site" / added.name
    first = registry.stamp()
    assert registry.before() == before.name
    registry.promote(registry.find(registry.before()), {"from": added.name, "kind": "rolled_back"})
    assert registry.current().name == before.name
    assert registry.stamp() != first
    assert [entry["kind"] for entry in registry.history()] == ["promoted", "rolled_back"]


def test_models_are_found_by_the_beginning_of_their_name(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "site")
    added = registry.add(tiny(tmp_path / "new", version="9.9.9"))
    assert registry.find(added.name[:30]).name == added.name
    assert registry.add(tmp_path / "new").name == added.name, "added twice is there once"
    for wrong in ("cxr", "nothing"):
        with pytest.raises(InvalidSettings, match=f"{wrong}: "):
            registry.find(wrong)
    with pytest.raises(InvalidSettings, match="no earlier model can serve"):
        Registry(tmp_path / "other").before()


def test_a_damaged_model_is_not_taken_in_and_not_served(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "site")
    folder = tiny(tmp_path / "new")
    added = registry.add(folder)
    for file in (ONNX, SAFETENSORS):
        (folder / file).write_bytes(b"broken")
        with pytest.raises(InvalidModel, match=rf"{file}: is not the file that model\.json was written for") as caught:
            registry.add(folder)
        assert "\n" not in str(caught.value)
        shutil.copyfile(tmp_path / "site" / added.name / file, folder / file)
    (tmp_path / "site" / added.name / SAFETENSORS).write_bytes(b"broken")
    assert [version.shipped for version in registry.all()] == [True] * len(registry.all())
    (fault,) = registry.damaged()
    assert "model.safetensors: is not the file that" in fault


def test_a_card_is_never_changed_once_it_was_added(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "models")
    folder = tiny(tmp_path / "a")
    added = registry.add(folder)
    assert registry.add(folder).name == added.name
    for path, message in (
        (folder / CARD, "is there with another card, and a model is never changed: give it another version"),
        (added.card.folder / CARD, "was changed after it was added"),
    ):
        card = json.loads(path.read_text())
        card["threshold"]["value"] = 0.01
        path.write_text(json.dumps(card))
        with pytest.raises(InvalidModel, match=message):
            registry.add(folder)
    assert added.name not in [version.name for version in registry.all()]
    assert "was changed after it was added" in registry.damaged()[0]


def test_a_folder_that_cannot_be_written_leaves_what_serves(tmp_path: Path) -> None:
    (tmp_path / "site").write_text("in the way")
    registry = Registry(tmp_path / "site")
    with pytest.raises(OutOfResources, match="cannot be written"):
        registry.add(tiny(tmp_path / "new"))
    assert registry.current() == shipped_model()


def test_delong_agrees_with_resampling() -> None:
    n = 400
    base = np.random.default_rng(0).normal(0, 1, n)
    labels = np.repeat([0, 1], n // 2)
    old, new = drawn(n, 2.0, 1, base), drawn(n, 2.6, 2, base)
    found = delong(labels, old, new)
    assert found.old == pytest.approx(roc_auc_score(labels, old))
    assert found.new == pytest.approx(roc_auc_score(labels, new))
    rng = np.random.default_rng(3)
    gaps = []
    for _ in range(800):
        chosen = np.concatenate([rng.integers(0, n // 2, n // 2), rng.integers(n // 2, n, n // 2)])
        gaps.append(roc_auc_score(labels[chosen], new[chosen]) - roc_auc_score(labels[chosen], old[chosen]))
    low, high = np.quantile(gaps, [0.025, 0.975])
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.006)
    same = delong(labels, old, old)
    assert (same.low, same.value, same.high) == pytest.approx((0, 0, 0), abs=1e-9)


def test_only_a_model_that_is_worse_is_held_back() -> None:
    n = 600
    base = np.random.default_rng(0).normal(0, 1, n)
    good, bad = answers(drawn(n, 3.0, 1, base)), answers(drawn(n, 1.5, 2, base))
    assert compare(bad, good, (0.6, 0.6)).worse(0.01) == []
    assert compare(good, good, (0.6, 0.6)).worse(0.0) == []
    worse = compare(good, bad, (0.6, 0.6))
    assert any(line.startswith("AUC ") for line in worse.worse(0.01))
    assert worse.worse(0.9) == []
    lower = compare(good, good, (0.6, 0.99))
    assert [line.split()[0] for line in lower.worse(0.01)] == ["sensitivity"], "its own threshold is part of a model"
    assert lower.to_dict()["auc"]["difference"] == 0


def test_on_a_handful_of_images_nothing_can_be_told() -> None:
    few, enough = answers(drawn(40, 3.0, 1)), answers(drawn(60, 3.0, 1))
    found = compare(few, few, (0.6, 0.6))
    assert found.worse(0.01) == []
    assert found.too_few(30) == "20 NORMAL and 20 PNEUMONIA images are too few to tell (at least 30 of each)"
    assert found.too_few(20) == ""
    assert compare(enough, enough, (0.6, 0.6)).too_few(30) == ""
    assert (found.n, found.to_dict()["normal"], found.to_dict()["pneumonia"]) == (40, 20, 20)
    with pytest.raises(InvalidData, match="1 NORMAL and 1 PNEUMONIA images: two of each"):
        compare(answers(drawn(2, 1.0, 1)), answers(drawn(2, 1.0, 1)), (0.5, 0.5))


def test_going_back_twice_goes_back_by_two(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "site")
    shipped = registry.find(registry.all()[0].name)
    good, bad = (registry.add(tiny(tmp_path / name, version=name)) for name in ("2.0.0", "3.0.0"))
    serves = shipped.name
    for each in (good, bad):
        registry.promote(each, {"from": serves, "kind": "promoted"})
        serves = each.name
    for expected in (good.name, shipped.name):
        before = registry.before()
        assert before == expected
        registry.promote(registry.find(before), {"from": serves, "kind": "rolled_back"})
        serves = before
    with pytest.raises(InvalidSettings, match="nothing to roll back to"):
        registry.before()


def test_a_model_that_is_gone_and_an_exchange_that_failed_are_passed_over(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "site")
    shipped = registry.all()[0]
    good, bad = (registry.add(tiny(tmp_path / name, version=name)) for name in ("2.0.0", "3.0.0"))
    registry.promote(good, {"from": shipped.name, "kind": "promoted"})
    registry._note({"from": good.name, "to": "never-came-to-be", "kind": "promoted"})
    registry.promote(bad, {"from": good.name, "kind": "promoted"})
    (tmp_path / "site" / good.name / ONNX).write_bytes(b"broken")
    assert registry.before() == shipped.name


def test_a_torn_line_of_the_history_is_no_exchange(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "site")
    shipped = registry.all()[0]
    added = registry.add(tiny(tmp_path / "new"))
    registry.promote(added, {"from": shipped.name, "kind": "promoted"})
    history = tmp_path / "site" / "history.jsonl"
    with history.open("a") as file:
        file.write('{"at": "20')
    assert registry.before() == shipped.name
    registry.promote(registry.find(shipped.name), {"from": added.name, "kind": "rolled_back"})
    assert [entry["kind"] for entry in registry.history()] == ["promoted", "rolled_back"]
    history.write_text("nonsense\n" + history.read_text())
    with pytest.raises(InvalidModel, match=r"history.jsonl: line 1 is damaged"):
        registry.history()


def write_digests(folder: Path, file: str) -> None:
    """Let a card name a file as it is."""
    card = json.loads((folder / CARD).read_text())
    card["files"][file] = {"sha256": file_digest(folder / file)}
    card["digest"] = weights_digest({name: entry["sha256"] for name, entry in card["files"].items()})
    (folder / CARD).write_text(json.dumps(card))


@pytest.mark.parametrize("file", [ONNX, INT8])
def test_a_file_with_the_right_digest_that_cannot_answer_is_not_taken_in(file: str, tmp_path: Path) -> None:
    folder = tiny(tmp_path / "new")
    (folder / file).write_bytes(b"no network")
    write_digests(folder, file)
    with pytest.raises(InvalidModel, match=rf"new/{file}: cannot answer"):
        Registry(tmp_path / "site").add(folder)
    assert list((tmp_path / "site").iterdir()) == []


def test_weights_that_the_card_does_not_name_are_not_taken_in(tmp_path: Path) -> None:
    folder = tiny(tmp_path / "new")
    shutil.copyfile(folder / SAFETENSORS, folder / "other.safetensors")
    model = onnx.load_model(folder / ONNX, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "other.safetensors"
    (folder / ONNX).write_bytes(model.SerializeToString())
    write_digests(folder, ONNX)
    with pytest.raises(InvalidModel, match=r"new/model\.onnx: cannot answer"):
        Registry(tmp_path / "site").add(folder)
