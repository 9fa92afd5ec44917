"""Every setting of cxrd: read once from config.yaml and the environment into a frozen, validated object."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from dicom_io.errors import InvalidSettings
from dicom_io.header.rules import Rules

AeTitle = Annotated[str, StringConstraints(min_length=1, max_length=16, pattern=r"^[\x20-\x5b\x5d-\x7e]+$")]
"""Application entity title: 1–16 characters of the default repertoire without backslash (PS3.5 6.2, VR AE)."""
Port = Annotated[int, Field(ge=0, le=65535)]
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


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Scp(_Part):
    """The node that images are sent to."""

    ae_title: AeTitle = "CXRD"
    host: str = "127.0.0.1"
    port: Port = 11112
    allowed_calling: tuple[AeTitle, ...] = ()
    require_called: bool = False
    maximum_associations: int = Field(20, ge=1, le=500)
    maximum_pdu: int = Field(131072, ge=4096, le=16777216)
    network_timeout: float = Field(60.0, gt=0)


class Storage(_Part):
    """Where received and produced objects lie."""

    folder: Path = Path("data")
    min_free_mb: int = Field(500, ge=0)


class LedgerSettings(_Part):
    """The database."""

    url: str = ""
    busy_timeout: float = Field(5.0, gt=0, description="seconds")


class RulesSettings(_Part):
    """Which images are analysed."""

    modalities: tuple[str, ...] = Rules.modalities
    sop_classes: tuple[str, ...] = Rules.sop_classes
    body_parts: tuple[str, ...] = Rules.body_parts
    views: tuple[str, ...] = Rules.views
    absent_body_part: Literal["analyse", "skip"] = Rules.absent_body_part
    absent_view: Literal["analyse", "skip"] = Rules.absent_view
    allow_derived: bool = Rules.allow_derived
    min_age_years: float | None = Field(None, ge=0)
    max_age_years: float | None = Field(None, ge=0)
    absent_age: Literal["analyse", "skip"] = Rules.absent_age


class Pixels(_Part):
    """Limits on what is decoded."""

    max_pixels: int = Field(60_000_000, ge=1)


class ModelSettings(_Part):
    """Which model answers, and on what."""

    folder: Path | None = None
    engine: Literal["auto", "onnx", "torch"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "int8"] = "auto"
    threads: int = Field(0, ge=0)
    operating_point: Name = "screening"
    threshold: float | None = Field(None, ge=0, le=1)
    out_of_distribution: Literal["warn", "skip"] = "warn"
    shadow: str | None = None
    batch_size: int = Field(8, ge=1, le=256)
    batch_wait_ms: float = Field(4.0, ge=0, le=1000)


class Results(_Part):
    """Which objects are returned, and what they look like."""

    kinds: tuple[Kind, ...] = Field(("secondary-capture", "structured-report", "presentation-state"), min_length=1)
    series_number: int = Field(9701, ge=0, le=2147483647)
    series_description: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\\]+$")] = (
        "cxrd pneumonia heatmap (research)"
    )
    height: int = Field(1024, ge=400, le=4096)
    layout: Literal["side-by-side", "overlay"] = "side-by-side"
    report_not_analysed: bool = False
    jpeg_quality: int | None = Field(None, ge=50, le=100)

    @model_validator(mode="after")
    def _a_report_needs_its_kind(self) -> Results:
        if self.report_not_analysed and "structured-report" not in self.kinds:
            raise ValueError("report_not_analysed needs structured-report among results.kinds")
        return self


class Destination(_Part):
    """Where results go: a DICOM node by host, port and AE title; a DICOMweb server by its URL; or a webhook; or HL7."""

    name: Name
    host: str = ""
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    ae_title: AeTitle | None = None
    calling_ae: AeTitle | None = None
    url: Annotated[str, StringConstraints(pattern=r"^(https?://\S+)?$")] = ""
    username: str = ""
    password: SecretStr = SecretStr("")
    webhook: Annotated[str, StringConstraints(pattern=r"^(https?://\S+)?$")] = ""
    secret: SecretStr = SecretStr("")
    hl7: Annotated[str, StringConstraints(pattern=r"^(\S+:\d{1,5})?$")] = ""
    hl7_application: Annotated[str, StringConstraints(max_length=180)] = ""
    hl7_facility: Annotated[str, StringConstraints(max_length=180)] = ""
    tls: bool = False
    ca_file: Path | None = None
    for_calling: tuple[AeTitle, ...] = ()
    kinds: tuple[Kind, ...] = ()
    compression: Literal["auto", "lossless", "none", "rle", "jpeg-2000"] = "auto"
    timeout: float = Field(30.0, gt=0)

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Destination:
        node = (self.host, self.port, self.ae_title)
        if bool(self.url) + bool(self.webhook) + bool(self.hl7) + any(node) > 1:
            raise ValueError("give either url, or webhook, or hl7, or host, port and ae_title")
        if not self.url and not self.notified and not all(node):
            missing = [name for name, value in zip(("host", "port", "ae_title"), node, strict=True) if not value]
            raise ValueError(f"{', '.join(missing)} missing (or url, for DICOMweb)")
        if self.notified and self.kinds:
            raise ValueError("a webhook or an HL7 receiver gets notifications: it has no kinds")
        if self.hl7 and not 0 < self.hl7_address[1] < 65536:
            raise ValueError("hl7: the port must be 1 to 65535")
        if self.tls and not self.hl7:
            raise ValueError("tls is for hl7; a url or a webhook says https, and a DICOM node has no TLS here")
        if self.ca_file is not None and not self.tls:
            raise ValueError("ca_file needs tls: true")
        if self.compression not in ("auto", "none") and not all(node):
            raise ValueError("compression is negotiated with a DICOM node (host, port and ae_title)")
        return self

    @property
    def notified(self) -> bool:
        """Whether it gets notifications of findings, and no result objects."""
        return bool(self.webhook or self.hl7)

    @property
    def hl7_address(self) -> tuple[str, int]:
        """Host and port of `hl7`; an IPv6 address stands in brackets there."""
        host, _, port = self.hl7.rpartition(":")
        return host.strip("[]"), int(port or 0)


class OutboxSettings(_Part):
    """How patiently results are delivered."""

    retry_first: float = Field(5.0, gt=0)
    retry_max: float = Field(900.0, gt=0)
    give_up_after_hours: float = Field(168.0, gt=0)
    per_association: int = Field(50, ge=1)


class Audit(_Part):
    """What the audit database may hold of a patient."""

    patient_id: Literal["hash", "plain", "none"] = "hash"


class WorkerSettings(_Part):
    """How much is done at once, and how often something is tried."""

    threads: int = Field(0, ge=0)
    max_attempts: int = Field(3, ge=1, le=100)
    max_crashes: int = Field(10, ge=1, le=1000)
    sweep_seconds: float = Field(60.0, gt=0)
    reanalysis_pause: float = Field(1.0, ge=0)


class Logging(_Part):
    """How the daemon speaks."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Settings(BaseSettings):
    """All settings. Each can be overridden by the environment: ``CXRD_SCP__PORT=11113``."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True, env_prefix="CXRD_", env_nested_delimiter="__")

    scp: Scp = Scp()
    storage: Storage = Storage()
    ledger: LedgerSettings = LedgerSettings()
    rules: RulesSettings = RulesSettings()
    pixels: Pixels = Pixels()
    model: ModelSettings = ModelSettings()
    results: Results = Results()
    destinations: tuple[Destination, ...] = ()
    outbox: OutboxSettings = OutboxSettings()
    audit: Audit = Audit()
    worker: WorkerSettings = WorkerSettings()
    logging: Logging = Logging()

    @model_validator(mode="after")
    def _names_are_unique(self) -> Settings:
        names = [destination.name for destination in self.destinations]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"destinations: the name {twice[0]} is used twice")
        return self

    @property
    def ledger_url(self) -> str:
        """The database's URL; by default SQLite in the storage folder."""
        return self.ledger.url or f"sqlite:///{self.storage.folder / 'ledger.sqlite'}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file."""
        return env_settings, init_settings


def shipped_config() -> Path:
    """Return the commented config.yaml that comes with the program."""
    here = Path(__file__).resolve().parent
    packed = here / "_shipped" / "config.yaml"
    return packed if packed.exists() else here.parent / "config.yaml"


def load(path: Path | None = None) -> Settings:
    """Read settings from `path`, or ``./config.yaml``, or the shipped file; then the environment.

    A relative `storage.folder`, `model.folder` or `ca_file` is meant from the folder of the file that was named (or
    found); with the shipped file, from the current folder.

    Raises
    ------
    InvalidSettings
        With every problem, each on its line: the file's line number, the key, and what is wrong.
    """
    found = path or (Path("config.yaml") if Path("config.yaml").exists() else None)
    source = found or shipped_config()
    values, lines = _read_yaml(source)
    _reject_unknown_environment()
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise InvalidSettings("; ".join(_explain(error, source, lines))) from error
    except SettingsError as error:
        raise InvalidSettings(f"environment: {error}") from error
    return _anchored(settings, found.resolve().parent if found else Path.cwd())


def _anchored(settings: Settings, base: Path) -> Settings:
    storage = settings.storage.model_copy(update={"folder": base / settings.storage.folder})
    model = settings.model
    if model.folder is not None:
        model = model.model_copy(update={"folder": base / model.folder})
    destinations = tuple(
        each if each.ca_file is None else each.model_copy(update={"ca_file": base / each.ca_file})
        for each in settings.destinations
    )
    return settings.model_copy(update={"storage": storage, "model": model, "destinations": destinations})


def _read_yaml(source: Path) -> tuple[dict[str, Any], dict[tuple[str | int, ...], int]]:
    """Return the file's values, and the line (from 1) on which each key stands."""
    try:
        text = source.read_text(encoding="utf-8")
        node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except OSError as error:
        raise InvalidSettings(f"{source}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidSettings(f"{source}: not a text file in UTF-8") from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InvalidSettings(f"{source}:{line}: not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise InvalidSettings(f"{source}: not valid YAML") from error
    if values is None:
        return {}, {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise InvalidSettings(f"{source}:1: expected settings as 'name: value'")
    _reject_duplicates(node, source)
    return values, dict(_walk(node, ()))


def _walk(node: yaml.Node, at: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*at, key.value), key.start_mark.line + 1
            yield from _walk(value, (*at, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*at, index), value.start_mark.line + 1
            yield from _walk(value, (*at, index))


def _reject_duplicates(node: yaml.Node | None, source: Path) -> None:
    """YAML lets the last of two equal keys win in silence; a person who wrote both wants to know."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise InvalidSettings(f"{source}:{key.start_mark.line + 1}: {key.value}: this key stands here twice")
            seen.add(key.value)
            _reject_duplicates(value, source)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _reject_duplicates(value, source)


def _explain(error: ValidationError, source: Path, lines: dict[tuple[str | int, ...], int]) -> Iterator[str]:
    for problem in error.errors():
        at = tuple(problem["loc"])
        key = ".".join(str(part) for part in at)
        name = "CXRD_" + "__".join(str(part).upper() for part in at)
        in_environment = any(known.upper() in (name, name.rsplit("__", 1)[0]) for known in os.environ)
        line = next((lines[at[:end]] for end in range(len(at), 0, -1) if at[:end] in lines), None)
        if in_environment:
            where = f"environment {name}"
        else:
            where = f"{source}:{line}: {key}" if line else f"{source}: {key}".removesuffix(": ")
        what = "unknown setting" if problem["type"] == "extra_forbidden" else problem["msg"]
        yield f"{where}: {what.removeprefix('Value error, ')}"


# Not settings: which file to read, and where the tests find their peers and data.
_OTHER_VARIABLES = ("CXRD_CONFIG", "CXRD_SHARED", "CXRD_TEST_")


def _reject_unknown_environment() -> None:
    """Name a misspelt variable: pydantic-settings passes over what it does not know at the top level."""
    for name in os.environ:
        if name.upper().startswith("CXRD_") and not name.upper().startswith(_OTHER_VARIABLES):
            part = name[len("CXRD_") :].split("__", maxsplit=1)[0].lower()
            if part not in Settings.model_fields:
                raise InvalidSettings(f"environment {name}: unknown setting")
