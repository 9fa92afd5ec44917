"""The settings of the node that images are sent to: where it listens, who may send, and what a peer may cost."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from worker.destination_settings import AeTitle, Part

Port = Annotated[int, Field(ge=0, le=65535)]


def _networks(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        try:
            ip_network(value)
        except ValueError as error:
            raise ValueError(f"{value} is no network; write it like 10.1.0.0/16 or 10.1.2.3") from error
    return values


class BoundTitle(Part):
    """An AE title that holds for peers of some networks alone."""

    ae_title: AeTitle
    networks: Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_networks)]


class ScpTls(Part):
    """Where and how the node speaks TLS."""

    port: Port = 2762
    certificate: Path
    key: Path
    ca_file: Path | None = None
    clients: Literal["required", "optional", "none"] = "required"

    @model_validator(mode="after")
    def _clients_need_an_authority(self) -> ScpTls:
        if self.clients != "none" and self.ca_file is None:
            raise ValueError(f"clients: {self.clients} needs ca_file, which says whose certificates are trusted")
        return self


class Scp(Part):
    """The node that images are sent to."""

    ae_title: AeTitle = "CXRD"
    host: str = "127.0.0.1"
    port: Port = 11112
    allowed_calling: tuple[AeTitle | BoundTitle, ...] = ()
    require_called: bool = False
    allowed_called: tuple[AeTitle | BoundTitle, ...] = ()
    maximum_associations: int = Field(20, ge=1, le=500)
    maximum_pdu: int = Field(131072, ge=4096, le=16777216)
    network_timeout: float = Field(60.0, gt=0)
    max_object_mb: int = Field(2048, ge=1)
    associations_per_peer: int | None = Field(None, ge=1, le=500)
    association_timeout: float = Field(15.0, gt=0)
    least_rate: int = Field(5000, ge=0)
    max_objects: int = Field(10_000, ge=0)
    max_memory_mb: int = Field(256, ge=16)
    urgent_calling: tuple[AeTitle, ...] = ()
    duplicates: Literal["version", "refuse"] = "version"
    tls: ScpTls | None = None

    @property
    def titles(self) -> tuple[str, ...]:
        """The calling AE titles that may send; none for all."""
        return _titles(self.allowed_calling)

    @property
    def networks(self) -> dict[str, tuple[str, ...]]:
        """The networks that they may come from, of those that are bound to some."""
        return _bound(self.allowed_calling)

    @property
    def called_titles(self) -> tuple[str, ...]:
        """The AE titles that we may be called by; none for all."""
        others = _titles(self.allowed_called)
        return tuple(dict.fromkeys((self.ae_title, *others))) if others or self.require_called else ()

    @property
    def called_networks(self) -> dict[str, tuple[str, ...]]:
        """The networks that may call us so, of the titles that are bound to some."""
        return _bound(self.allowed_called)


def _titles(values: tuple[AeTitle | BoundTitle, ...]) -> tuple[str, ...]:
    return tuple(each if isinstance(each, str) else each.ae_title for each in values)


def _bound(values: tuple[AeTitle | BoundTitle, ...]) -> dict[str, tuple[str, ...]]:
    bound = [each for each in values if isinstance(each, BoundTitle)]
    return {each.ae_title: sum((one.networks for one in bound if one.ae_title == each.ae_title), ()) for each in bound}
