"""Which model serves: list, add, compare, promote and roll back a site's models."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicom_io.errors import InvalidModel, InvalidSettings
from modeltrain.model.card import Card, load_card
from modeltrain.model.registry import Version, prove, version_name
from worker.clock import now
from worker.defaults import LEAST_IMAGES, MARGIN
from worker.extras import require
from worker.inference.serving import model_folder, registry_of
from worker.ledger.database import open_ledger
from worker.ledger.shadow_queries import differences, summary

if TYPE_CHECKING:
    from worker.models.comparison import PairedComparison
    from worker.settings import Settings


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """One model in a list."""

    serves: bool
    name: str
    created: str
    validation_auc: float | None
    test_auc: float | None
    shipped: bool


@dataclass(frozen=True, slots=True)
class Inventory:
    """A site's models, what is wrong with damaged ones, and `model.folder` where the settings name one."""

    models: tuple[ModelSummary, ...]
    damaged: tuple[str, ...]
    folder: Path | None


@dataclass(frozen=True, slots=True)
class ShadowComparison:
    """The shadow model beside those that served: one row for each pair, and the images that they answer otherwise."""

    pairs: list[dict[str, Any]]
    images: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class PromotionRequest:
    """A candidate that is to serve.

    Attributes
    ----------
    name
        The candidate's name, or its beginning.
    by
        Who asks for it; recorded.
    data
        Locked radiographs, see `worker.models.training_data.evaluation_data`.
    margin
        How much worse it may be.
    least
        Images of each class below which nothing is promoted.
    force, reason
        Promote without the comparison, or against it; the reason is recorded.
    """

    name: str
    by: str
    data: str | None = None
    margin: float = MARGIN
    least: int = LEAST_IMAGES
    force: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RollbackRequest:
    """A model that is to serve again; None for the one before."""

    by: str
    name: str | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Exchange:
    """The model that serves now, the one before, and what a person must know of the comparison, one line each."""

    serving: str
    before: str
    notes: tuple[str, ...] = ()


def inventory(settings: Settings) -> Inventory:
    """Return the models that came with cxrd and those of the site."""
    registry = registry_of(settings)
    serving = _serving_name(settings)
    return Inventory(
        tuple(_summary(version, serving) for version in registry.all()),
        tuple(registry.damaged()),
        settings.model.folder,
    )


def _summary(version: Version, serving: str) -> ModelSummary:
    metrics = version.card.raw.get("metrics", {})
    validation, test = ((metrics.get(part) or {}).get("auc") for part in ("validation", "test"))
    created = version.card.raw.get("created", "")
    return ModelSummary(version.name == serving, version.name, created, validation, test, version.shipped)


def card_of(settings: Settings, name: str | None = None) -> Card:
    """Return the card of a model by its name or the name's beginning, or of the serving model."""
    return registry_of(settings).find(name).card if name else load_card(model_folder(settings))


def add(settings: Settings, folder: Path) -> str:
    """Copy a model folder into the site's models and return its name. It does not serve before it is promoted."""
    return registry_of(settings).add(folder).name


def compare(settings: Settings, old: str, new: str, data: str) -> PairedComparison:
    """Compare two models, by their names, on labelled radiographs. Raises as `comparison.compare_cards` does."""
    registry = registry_of(settings)
    return _compared(settings, registry.find(old).card, registry.find(new).card, data)


def compare_shadow(settings: Settings, since: dt.datetime | None) -> ShadowComparison:
    """Compare the shadow model with those that served, on the images received since then."""
    ledger = open_ledger(settings)
    return ShadowComparison(summary(ledger, since), differences(ledger, since))


def promote(settings: Settings, request: PromotionRequest) -> Exchange:
    """Let a model serve, if neither answers nor heatmaps are worse than the current one's on locked radiographs.

    Raises
    ------
    InvalidSettings
        It is worse, there are too few images to tell, or the request is incomplete.
    InvalidData, InvalidModel, OutOfResources
        The images or a model cannot be used, or the exchange cannot be entered.
    """
    candidate, serving = registry_of(settings).find(request.name), card_of(settings)
    _check_promotable(settings)
    reason = request.reason.strip()
    if request.force and not reason:
        raise InvalidSettings("--force needs a --reason, which is recorded")
    if request.data is None and not request.force:
        raise InvalidSettings("name labelled radiographs by --data, or give --force and --reason")
    facts: dict[str, Any] = {"forced": request.force, "reason": reason}
    notes: tuple[str, ...] = ()
    if request.data is not None:
        result = _compared(settings, serving, candidate.card, request.data)
        worse, few = result.comparison.worse(request.margin), result.comparison.too_few(request.least)
        worse_maps = result.maps.worse() if result.maps else []
        facts |= {"comparison": result.to_dict(), "margin": request.margin, "worse": [*worse, *worse_maps]}
        facts |= {"least": request.least, "too_few": bool(few)}
        notes = tuple(result.notes)
        if few and not request.force:
            raise InvalidSettings("; ".join([f"{candidate.name} is not promoted: {few}", *notes]))
        reasons = [f"it may be worse by more than the margin {request.margin:g}: {'; '.join(worse)}"] if worse else []
        reasons += [f"its heatmaps are worse: {'; '.join(worse_maps)}"] if worse_maps else []
        if reasons and not request.force:
            raise InvalidSettings(f"{candidate.name} is not promoted: {'; '.join(reasons)}")
    before = _exchange(settings, candidate, request.by, "promoted", facts)
    return Exchange(candidate.name, before, notes)


def rollback(settings: Settings, request: RollbackRequest) -> Exchange:
    """Let the model serve again that served before.

    Raises
    ------
    InvalidSettings
        There is none, or none of this name.
    InvalidModel, OutOfResources
        It cannot answer, or the exchange cannot be entered.
    """
    _check_promotable(settings)
    registry = registry_of(settings)
    version = registry.find(request.name or registry.before())
    before = _exchange(settings, version, request.by, "rolled_back", {"reason": request.reason.strip()})
    return Exchange(version.name, before)


def _compared(settings: Settings, old: Card, new: Card, data: str) -> PairedComparison:
    require("evaluate", "comparing models")
    from worker.models.comparison import compare_cards  # noqa: PLC0415 - the extra `evaluate`

    return compare_cards(settings, old, new, data)


def _exchange(settings: Settings, version: Version, by: str, kind: str, facts: dict[str, Any]) -> str:
    """Enter the exchange in the audit, then let it happen: never the other way round. Return what served before."""
    prove(version.card)  # force changes nothing here
    facts = {"kind": kind, "from": _serving_name(settings), "by": by, **facts}
    entry = {key: value for key, value in facts.items() if key != "kind"}
    entry |= {"to": version.name, "to_sha256": version.card.sha256}
    open_ledger(settings).record_event(kind, now(), entry)
    registry_of(settings).promote(version, facts)
    return str(facts["from"])


def _check_promotable(settings: Settings) -> None:
    if settings.model.folder:
        raise InvalidSettings(
            f"model.folder is {settings.model.folder}, so nothing can be promoted: set it to null in config.yaml"
        )


def _serving_name(settings: Settings) -> str:
    """Return the name by content of the serving model; of a damaged one, its folder's."""
    folder = model_folder(settings)
    try:
        return version_name(load_card(folder))
    except InvalidModel:
        return folder.name
