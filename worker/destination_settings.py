"""The settings of a destination: one class for each of its four kinds, told apart by the keys that are given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SecretStr,
    StringConstraints,
    Tag,
    model_validator,
)

from dicom_io.network.tls import ClientTls

_Model = TypeVar("_Model", bound=BaseModel)
AeTitle = Annotated[str, StringConstraints(min_length=1, max_length=16, pattern=r"^[\x20-\x5b\x5d-\x7e]+$")]
"""Application entity title: 1–16 characters of the default repertoire without backslash (PS3.5 6.2, VR AE)."""
Kind = Literal[
    "secondary-capture",
    "structured-report",
    "presentation-state",
    "key-objects",
    "parametric-map",
    "encapsulated-pdf",
    "multi-frame-capture",
]
"""A kind of result, as `results.kinds` and a destination's `kinds` name it."""
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


def _with_host(value: str) -> str:
    """Return an address whose host and port can be read; the error does not quote it."""
    try:
        parts = urlsplit(value)
        is_readable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_readable = False
    if not is_readable:
        raise ValueError("must have a host, and a port of 1 to 65535 if any")
    return value


Url = Annotated[str, StringConstraints(pattern=r"^https?://\S+$"), AfterValidator(_with_host)]


class Part(BaseModel):
    """A part of the settings: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def anchored(settings: _Model, folder: Path) -> _Model:
    """Return settings with all their files and folders, and those of their parts, meant from a folder."""
    changes = {name: place for name, value in settings if (place := _anchored(value, folder)) is not value}
    return settings.model_copy(update=changes) if changes else settings


def _anchored(value: Any, folder: Path) -> Any:
    if isinstance(value, Path):
        return folder / value
    if isinstance(value, BaseModel):
        return anchored(value, folder)
    if isinstance(value, tuple):
        places = tuple(_anchored(each, folder) for each in value)
        return places if any(new is not old for new, old in zip(places, value, strict=True)) else value
    return value


class BaseDestination(Part):
    """What every destination has."""

    title: ClassVar[str]
    """What its kind is called in messages."""
    notification: ClassVar[str | None] = None
    """The kind of notification that goes there; None where results go."""

    name: Name
    for_calling: tuple[AeTitle, ...] = ()
    timeout: float = Field(30.0, gt=0)

    def takes(self, kind: str) -> bool:
        """Tell whether this kind of result or notification goes there."""
        return kind == self.notification

    def select(self, kinds: Iterable[Kind]) -> list[Kind]:
        """Return those of these kinds of result that go there."""
        return [kind for kind in kinds if self.takes(kind)]

    @model_validator(mode="before")
    @classmethod
    def _leave_out_what_means_nothing(cls, values: Any) -> Any:
        """Leave out keys of other kinds that have no effect here: files of earlier versions may hold them."""
        if not isinstance(values, Mapping):
            return values
        foreign = {key for each in KINDS.values() for key in each.model_fields} - set(cls.model_fields)
        idle = {key for key in foreign & set(values) if key in _NO_EFFECT or values[key] in _EMPTY.get(key, _BLANK)}
        return {key: value for key, value in values.items() if key not in idle}


class _ResultDestination(BaseDestination):
    kinds: tuple[Kind, ...] = ()

    def takes(self, kind: str) -> bool:
        """Tell whether this kind of result goes there: each, or those that `kinds` names."""
        return kind not in NOTIFICATIONS and (not self.kinds or kind in self.kinds)


class TlsFiles(Part):
    """What TLS with a peer that we call needs: whose certificates are trusted (none: the system's), and ours."""

    ca_file: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    @model_validator(mode="after")
    def _a_certificate_has_a_key(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together")
        return self

    @property
    def client(self) -> ClientTls:
        """The same as the network takes it."""
        return ClientTls(self.ca_file, self.certificate, self.key)


def _as_tls(value: Any) -> Any:
    """Return what ``tls: true`` and ``tls: false`` mean."""
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


class DicomDestination(_ResultDestination):
    """A DICOM node."""

    title: ClassVar[str] = "a DICOM node"

    host: Annotated[str, StringConstraints(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)]
    ae_title: AeTitle
    calling_ae: AeTitle | None = None
    compression: Literal["auto", "lossless", "none", "rle", "jpeg-2000"] = "auto"
    commitment: Literal["auto", True, False] = "auto"
    associations: Annotated[int, Field(ge=1, le=16)] = 2
    tls: Annotated[TlsFiles | None, BeforeValidator(_as_tls)] = None


class DicomwebDestination(_ResultDestination):
    """A DICOMweb server."""

    title: ClassVar[str] = "a DICOMweb server"

    url: Url
    username: str = ""
    password: SecretStr = SecretStr("")


class WebhookDestination(BaseDestination):
    """An address that is told of flagged images."""

    title: ClassVar[str] = "a webhook"
    notification: ClassVar[str | None] = "notification"

    webhook: Url
    secret: SecretStr = SecretStr("")


def _port_in_range(value: str) -> str:
    if not 0 < int(value.rpartition(":")[2]) < 65536:
        raise ValueError("the port must be 1 to 65535")
    return value


class Hl7Destination(BaseDestination):
    """An HL7 v2 receiver that is told of flagged images."""

    title: ClassVar[str] = "an HL7 receiver"
    notification: ClassVar[str | None] = "oru"

    hl7: Annotated[str, StringConstraints(pattern=r"^[^\s@/?#]+:\d{1,5}$"), AfterValidator(_port_in_range)]
    hl7_application: Annotated[str, StringConstraints(max_length=180)] = ""
    hl7_facility: Annotated[str, StringConstraints(max_length=180)] = ""
    tls: bool = False
    ca_file: Path | None = None

    @model_validator(mode="after")
    def _trust_needs_tls(self) -> Self:
        if self.ca_file is not None and not self.tls:
            raise ValueError("ca_file needs tls: true")
        return self

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `hl7`; an IPv6 address stands in brackets there."""
        host, _, port = self.hl7.rpartition(":")
        return host.strip("[]"), int(port)


KINDS: dict[str, type[BaseDestination]] = {
    "dicom": DicomDestination,
    "dicomweb": DicomwebDestination,
    "webhook": WebhookDestination,
    "hl7": Hl7Destination,
}
NOTIFICATIONS = tuple(each.notification for each in KINDS.values() if each.notification)
"""The kinds of notification; every other kind is one of result objects."""
_SIGNS = {"dicom": ("host", "port", "ae_title"), "dicomweb": ("url",), "webhook": ("webhook",), "hl7": ("hl7",)}
_NO_EFFECT = ("calling_ae", "username", "password", "secret", "hl7_application", "hl7_facility")
_BLANK: tuple[Any, ...] = (None, "", False, [], ())
_EMPTY: dict[str, tuple[Any, ...]] = {"compression": ("auto", "none"), "commitment": ("auto", False)}


def _kind_of(values: Any) -> str | None:
    """Return the one kind of destination whose keys are given; None where there are none, or those of several."""
    if isinstance(values, BaseDestination):
        return next(kind for kind, each in KINDS.items() if isinstance(values, each))
    entry = values if isinstance(values, Mapping) else {}
    kinds = [kind for kind, keys in _SIGNS.items() if any(entry.get(key) for key in keys)]
    return kinds[0] if len(kinds) == 1 else None


Destination = Annotated[
    Annotated[DicomDestination, Tag("dicom")]
    | Annotated[DicomwebDestination, Tag("dicomweb")]
    | Annotated[WebhookDestination, Tag("webhook")]
    | Annotated[Hl7Destination, Tag("hl7")],
    Discriminator(
        _kind_of,
        custom_error_type="destination_kind",
        custom_error_message="give either url, or webhook, or hl7, or host, port and ae_title",
    ),
]
"""Where results or notifications go."""

# ---- what is wrong with one ------------------------------------------------------------------------------------------

_FOREIGN = {
    "kinds": "only for a DICOM node or a DICOMweb server: {title} gets notifications",
    "compression": "only for a DICOM node, with which it is negotiated",
    "commitment": "only for a DICOM node: the others have no storage commitment",
    "associations": "only for a DICOM node: the others have none",
    "tls": "only for a DICOM node or an HL7 receiver: a url or a webhook says https",
    "ca_file": "only for an HL7 receiver with tls: true; that of a DICOM node stands within its tls",
}
_FORMATS = {
    "name": "must be 1 to 64 letters, digits, _, . or -",
    "url": "must begin with http:// or https://",
    "webhook": "must begin with http:// or https://",
    "hl7": "must be host:port",
}
_MESSAGES = {
    "tuple_type": 'must be a list; begin each entry with "- name:"',
    "missing": "missing",
}


def explain(place: tuple[str | int, ...], error: str, message: str) -> tuple[tuple[str | int, ...], str]:
    """Return where in the settings a mistake in `destinations` stands, and what is wrong, in words.

    Parameters
    ----------
    place, error, message
        Location, type and message of pydantic's error; the location holds the kind of destination too.
    """
    kind = KINDS.get(str(place[2])) if len(place) > 2 else None
    where = (*place[:2], *place[3:])
    key = str(where[-1])
    if kind and error == "extra_forbidden":
        return where, _FOREIGN.get(key, "unknown setting").format(title=kind.title)
    if kind and error == "missing" and key in _SIGNS["dicom"]:
        return where, "missing; a DICOM node needs host, port and ae_title"
    if key == "commitment" and error == "literal_error":
        return where, "must be auto, true or false"
    if error == "string_pattern_mismatch":
        return where, _FORMATS.get(key, message)
    return where, _MESSAGES.get(error, message)
