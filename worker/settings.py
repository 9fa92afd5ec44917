"""Every setting of cxrd: read once from config.yaml and the environment into a frozen, validated object."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from dicom_io.errors import InvalidSettings
from dicom_io.header.reading_limits import ReadingLimits
from dicom_io.header.rules import Rules
from dicom_io.pixels.decoders import DecodingLimits
from worker import destination_settings
from worker.config_file import ConfigFile, read_config
from worker.destination_settings import AeTitle, Destination, Kind, Name, Part, TlsFiles, anchored
from worker.scp_settings import Scp as Scp  # noqa: PLC0414 - a part of the settings, and taken from here
from worker.setting_messages import dotted, in_words, unknown

SyslogUrl = Annotated[str, StringConstraints(pattern=r"^((udp|tls)://[^\s/@]+)?$")]
"""``udp://host:port`` or ``tls://host:port``; empty for none."""


class Storage(Part):
    """Where received and produced objects lie."""

    folder: Path = Path("data")
    min_free_mb: int = Field(500, ge=0)
    make_room_mb: int | None = Field(None, ge=0)
    keep_received_days: float | None = Field(None, gt=0)
    keep_results_days: float | None = Field(None, gt=0)

    @property
    def room_bytes(self) -> int:
        """The free bytes below which the oldest files go, if they are done with; 0 for never."""
        megabytes = 4 * self.min_free_mb if self.make_room_mb is None else self.make_room_mb
        return megabytes * 1_000_000

    @model_validator(mode="after")
    def _room_is_made_before_images_are_refused(self) -> Storage:
        if 0 < self.room_bytes <= self.min_free_mb * 1_000_000:
            raise ValueError(
                f"make_room_mb ({self.make_room_mb}) must be above min_free_mb ({self.min_free_mb}), or 0 for never"
            )
        return self


class LedgerSettings(Part):
    """The database."""

    url: str = ""
    busy_timeout: float = Field(5.0, gt=0, description="seconds")
    connect_timeout: float = Field(5.0, gt=0)
    statement_timeout: float = Field(30.0, gt=0)
    pool_size: int = Field(10, ge=1, le=100)


class RulesSettings(Part):
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


class Pixels(Part):
    """Limits on what is decoded."""

    max_pixels: int = Field(60_000_000, ge=1)
    max_memory_mb: int = Field(1000, ge=1)
    max_elements: int = Field(200_000, ge=1000)
    decode_seconds: float = Field(30.0, gt=0)

    @property
    def reading(self) -> ReadingLimits:
        """What reading an object may cost."""
        return ReadingLimits(self.max_elements, self.max_memory_mb)

    @property
    def decoding(self) -> DecodingLimits:
        """What decoding a frame may cost."""
        return DecodingLimits(self.max_memory_mb, self.decode_seconds)


class ModelSettings(Part):
    """Which model answers, and on what."""

    folder: Path | None = None
    engine: Literal["auto", "onnx", "torch"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "int8"] = "auto"
    threads: int = Field(0, ge=0)
    operating_point: Name = "screening"
    threshold: float | None = Field(None, ge=0, le=1)
    out_of_distribution: Literal["warn", "skip"] = "skip"
    shadow: str | None = None
    batch_size: int = Field(8, ge=1, le=256)
    batch_wait_ms: float = Field(4.0, ge=0, le=1000)


class Results(Part):
    """Which objects are returned, and what they look like."""

    kinds: tuple[Kind, ...] = Field(("secondary-capture", "structured-report", "presentation-state"), min_length=1)
    series_number: int = Field(9701, ge=0, le=2147483647)
    series_description: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[^\\]+$")] = (
        "cxrd pneumonia heatmap (research)"
    )
    height: int = Field(1024, ge=400, le=4096)
    layout: Literal["side-by-side", "overlay"] = "side-by-side"
    report_not_analysed: bool = False
    jpeg_quality: int | None = Field(90, ge=50, le=100)

    @model_validator(mode="after")
    def _a_report_needs_its_kind(self) -> Results:
        if self.report_not_analysed and "structured-report" not in self.kinds:
            raise ValueError("report_not_analysed needs structured-report among results.kinds")
        return self


class OutboxSettings(Part):
    """How patiently results are delivered."""

    retry_first: float = Field(5.0, gt=0)
    retry_max: float = Field(900.0, gt=0)
    give_up_after_hours: float = Field(168.0, gt=0)
    per_association: int = Field(50, ge=1)
    commit_after: float = Field(60.0, ge=0)
    commit_report_within: float = Field(3600.0, gt=0)
    commit_requests: int = Field(24, ge=1, le=1000)


class Requestor(Part):
    """A node that asks us for storage commitment, and where it listens for our report."""

    ae_title: AeTitle
    host: Annotated[str, StringConstraints(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65535)]


class CommitmentSettings(Part):
    """What we promise to those who send us images."""

    offered: bool = False
    report_to: tuple[Requestor, ...] = ()


class Anchor(Part):
    """Where the head of the audit's chain is kept beside the database."""

    file: Path | None = None
    syslog: SyslogUrl = ""
    ca_file: Path | None = None
    every: float = Field(3600.0, ge=1)
    key_file: Path | None = None


class AuditSyslog(TlsFiles):
    """Where DICOM audit messages go."""

    url: SyslogUrl = ""
    site: str = Field("", max_length=64)


class Audit(Part):
    """What the audit database may hold of a patient, how its chain is anchored, and who else is told."""

    patient_id: Literal["hash", "plain", "none"] = "hash"
    anchor: Anchor = Anchor()
    syslog: AuditSyslog = AuditSyslog()


class WorkerSettings(Part):
    """How much is done at once, and how often something is tried."""

    threads: int = Field(0, ge=0)
    max_attempts: int = Field(3, ge=1, le=100)
    max_crashes: int = Field(3, ge=1, le=1000)
    lease_seconds: float = Field(20.0, ge=1)
    stop_seconds: float = Field(25.0, gt=0)
    reanalysis_pause: float = Field(1.0, ge=0)


class Health(Part):
    """Where each process says how it is."""

    host: str = "127.0.0.1"
    port: int = Field(11180, ge=0, le=65000)
    stuck_seconds: float = Field(300.0, gt=0)


class Logging(Part):
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
    commitment: CommitmentSettings = CommitmentSettings()
    audit: Audit = Audit()
    worker: WorkerSettings = WorkerSettings()
    health: Health = Health()
    logging: Logging = Logging()

    @field_validator("destinations")
    @classmethod
    def _names_are_unique(cls, destinations: tuple[Destination, ...]) -> tuple[Destination, ...]:
        names = [destination.name for destination in destinations]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the name {twice[0]} is used twice")
        return destinations

    @property
    def ledger_url(self) -> str:
        """The database's URL; by default SQLite in the storage folder."""
        return self.ledger.url or f"sqlite:///{self.storage.folder / 'ledger.sqlite'}"

    @property
    def anchor_key_file(self) -> Path:
        """The file that holds the key of anchors."""
        return self.audit.anchor.key_file or self.storage.folder / "anchor.key"

    def destination(self, name: str) -> Destination:
        """Return the destination of this name.

        Raises
        ------
        InvalidSettings
            There is none; the message names those that there are.
        """
        by_name = {each.name: each for each in self.destinations}
        if name not in by_name:
            raise InvalidSettings(f"{name}: no such destination; there are: {', '.join(by_name) or 'none'}")
        return by_name[name]

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


def load(path: Path | None = None, text: str | None = None) -> Settings:
    """Read settings from `path`, or ``./config.yaml``, or the shipped file; then the environment.

    A relative `storage.folder`, `model.folder`, `ca_file` or file of `audit` starts at the folder of that file.
    With the shipped file it starts at the current folder.

    Raises
    ------
    InvalidSettings
        With every problem, each on its line: the file's line number, the key, and what is wrong.
    """
    named = path or (Path("config.yaml") if Path("config.yaml").exists() else None)
    file = read_config(named or shipped_config(), text)
    _reject_unknown_environment()
    try:
        settings = Settings(**file.values)
    except ValidationError as error:
        raise InvalidSettings("\n".join(_explain(error, file))) from error
    except SettingsError as error:
        raise InvalidSettings(f"environment: {error}") from error
    return anchored(settings, named.resolve().parent if named else Path.cwd())


def _explain(error: ValidationError, file: ConfigFile) -> Iterator[str]:
    """Yield each mistake in one line: where it stands, which setting, what is wrong."""
    for problem in error.errors():
        at, what = tuple(problem["loc"]), in_words(problem["type"], problem.get("ctx", {}), problem["msg"])
        if at[:1] == ("destinations",):
            at, what = destination_settings.explain(at, problem["type"], what)
        elif problem["type"] == "extra_forbidden":
            what = unknown(str(at[-1]), _names_beside(at))
        name, line = _variable(at), file.line_of(at)
        if name:
            where = f"environment {name}: {_key(at, {})}" if at[:1] == ("destinations",) else f"environment {name}"
        else:
            where = f"{file.path}:{line}: {_key(at, file.values)}" if line else f"{file.path}: {_key(at, file.values)}"
        yield f"{where.removesuffix(': ')}: {what}"


def _names_beside(at: tuple[str | int, ...]) -> Iterable[str]:
    """Return the names of the settings that stand in the same part as this one."""
    if len(at) == 1:
        return Settings.model_fields
    part = Settings.model_fields[str(at[0])].annotation
    return part.model_fields if isinstance(part, type) and issubclass(part, Part) else ()


def _variable(at: tuple[str | int, ...]) -> str:
    """Return the environment variable that states a setting, or nothing."""
    path = [str(part).upper() for part in at]
    ends = {len(path), len(path) - 1} | ({1} if path[:1] == ["DESTINATIONS"] else set())
    names = {"CXRD_" + "__".join(path[:end]) for end in ends if end > 0}
    return max((variable for variable in os.environ if variable.upper() in names), key=len, default="")


def _key(at: tuple[str | int, ...], values: dict[str, Any]) -> str:
    """Return how a setting is called: a destination by its name, or by its number in the list where it has none."""
    if at[:1] != ("destinations",) or len(at) < 2:
        return dotted(at)
    number = int(at[1])
    try:
        name = values["destinations"][number]["name"]
    except (LookupError, TypeError):
        name = number + 1
    return f"destination {name}: {dotted(at[2:])}".removesuffix(": ")


# Not settings: which file to read, and where the tests find their peers and data.
_OTHER_VARIABLES = ("CXRD_CONFIG", "CXRD_SHARED", "CXRD_TEST_")


def _reject_unknown_environment() -> None:
    """Name a misspelt variable: pydantic-settings passes over what it does not know at the top level."""
    for name in os.environ:
        if name.upper().startswith("CXRD_") and not name.upper().startswith(_OTHER_VARIABLES):
            part = name[len("CXRD_") :].split("__", maxsplit=1)[0].lower()
            if part not in Settings.model_fields:
                raise InvalidSettings(f"environment {name}: {unknown(part, Settings.model_fields)}")
