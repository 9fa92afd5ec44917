"""The optional parts of the installation: which packages belong to which extra, and which ones the settings need."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

from dicom_io.errors import InvalidSettings

if TYPE_CHECKING:
    from worker.settings import Settings

EXTRAS = {
    "evaluate": ("scipy", "sklearn", "matplotlib", "jinja2"),
    "pdf": ("reportlab",),
    "postgres": ("psycopg",),
    "train": ("torch", "torchvision", "onnx", "onnxscript", "safetensors", "tensorboard"),
}
"""For each extra of pyproject.toml that is named here, the modules that come with it."""


def require(extra: str, what: str) -> None:
    """Make sure that an extra is installed.

    Parameters
    ----------
    what
        What needs it, as a person calls it.

    Raises
    ------
    InvalidSettings
        A package is missing; the message says in one line how to install it.
    """
    fault = _missing(extra, what)
    if fault:
        raise InvalidSettings(fault)


def require_configured(settings: Settings) -> None:
    """Make sure, when the program starts, that everything the settings name can be done.

    Destinations look for their own extras when they are set up.

    Raises
    ------
    InvalidSettings
        An extra is missing; the message names all of them in one line.
    """
    faults = list(lacking(settings))
    if faults:
        raise InvalidSettings("; ".join(faults))


def require_ledger(settings: Settings) -> None:
    """Make sure that the database can be used: nothing goes without it. Raises as `require` does."""
    if settings.ledger.url.startswith("postgresql+psycopg:"):
        require("postgres", "ledger.url: postgresql+psycopg")


def lacking(settings: Settings) -> Iterator[str]:
    """Yield what the settings name and cannot be done, since an extra is missing."""
    needed = {
        "pdf": ("encapsulated-pdf" in settings.results.kinds, "results.kinds: encapsulated-pdf"),
        "postgres": (settings.ledger.url.startswith("postgresql+psycopg:"), "ledger.url: postgresql+psycopg"),
    }
    for extra, (configured, what) in needed.items():
        if configured and (fault := _missing(extra, what)):
            yield fault


def _missing(extra: str, what: str) -> str:
    package = next((name for name in EXTRAS[extra] if find_spec(name) is None), None)
    return f"{what} needs {package}: pip install 'cxrd[{extra}]'" if package else ""
