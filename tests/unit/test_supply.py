"""What cxrd is made of: releases held to hashes, licences, findings of security checks, and what its containers may."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("serving", "container", "extras", "build", "tools")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# Permissive licences, as their own names, as SPDX and as PyPI's classifiers have them.
LICENCES = {
    "0BSD", "3-Clause BSD License", "Apache Software License", "Apache-2.0", "BSD License", "BSD-2-Clause",
    "BSD-3-Clause", "CC0-1.0", "ISC License (ISCL)", "MIT", "MIT License", "MIT-CMU", "PSF-2.0",
    "Python Software Foundation License", "Zlib",
}  # fmt: skip
# Weak copyleft: used as they come, from packages of their own, which anybody may exchange. Extras alone bring them.
WEAK = {
    "certifi": "Mozilla Public License 2.0 (MPL 2.0)",
    "psycopg": "LGPL-3.0-only",
    "psycopg-binary": "LGPL-3.0-only",
}


@dataclass(frozen=True)
class Release:
    """A line of a list in requirements/, with its hashes."""

    requirement: Requirement
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def here(self) -> bool:
        """Whether this Python on this system gets it."""
        return self.requirement.marker is None or self.requirement.marker.evaluate()


def releases(lock: str) -> Iterator[Release]:
    """Read a list of requirements/."""
    joined = (ROOT / "requirements" / f"{lock}.txt").read_text().replace("\\\n", " ")
    for line in joined.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            requirement, *hashes = line.split("--hash=")
            yield Release(Requirement(requirement.strip()), tuple(each.strip() for each in hashes))


def asked_for(lock: str) -> list[Requirement]:
    """Return what pyproject.toml says of a list."""
    groups, extras = PROJECT["dependency-groups"], PROJECT["project"]["optional-dependencies"]
    if lock in groups:
        return [Requirement(each) for each in groups[lock]]
    named = {"serving": (), "container": ("pdf", "postgres")}.get(
        lock, ("evaluate", "pdf", "dicomweb", "hl7", "postgres")
    )
    texts = [*PROJECT["project"]["dependencies"], *(text for extra in named for text in extras[extra])]
    return [Requirement(each) for each in texts]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_release_is_one_version_and_held_to_hashes(lock: str) -> None:
    found = list(releases(lock))
    assert found
    for release in found:
        (pin,) = release.requirement.specifier
        assert (pin.operator, release.requirement.url) == ("==", None)
        assert release.hashes
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each) for each in release.hashes), release.name


@pytest.mark.parametrize("lock", LOCKS)
def test_a_list_names_no_place(lock: str) -> None:
    # Where files come from is pip's business on the machine in question; the hashes say that they are the right ones.
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    assert re.findall(r"://|^ *-(?!-hash=)|--(?!hash=)|(?:^|\s)/", text, re.MULTILINE) == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_list_holds_what_pyproject_asks_for(lock: str) -> None:
    locked = {release.name: release for release in releases(lock) if release.here}
    for wanted in asked_for(lock):
        release = locked[canonicalize_name(wanted.name)]
        (pin,) = release.requirement.specifier
        assert wanted.specifier.contains(pin.version, prereleases=True), f"{wanted}: make lock"


def test_all_lists_of_what_serves_name_the_same_releases() -> None:
    # Markers differ: an extra may need everywhere what others need on one system.
    of = {
        lock: {(each.name, str(each.requirement.specifier), each.hashes) for each in releases(lock)} for lock in LOCKS
    }
    assert of["serving"] < of["container"] < of["extras"]


def test_serving_needs_no_torch_and_no_list_holds_it() -> None:
    names = {release.name for lock in LOCKS for release in releases(lock)}
    assert not {name for name in names if name.startswith(("torch", "nvidia", "triton"))}


def licences(name: str) -> set[str]:
    """Return all licences that a package states, as it calls them."""
    stated = importlib.metadata.metadata(name)
    if expressions := stated.get_all("License-Expression"):
        return set(re.split(r" (?:AND|OR) ", expressions[0]))
    prefix = re.compile(r"License :: (?:OSI Approved :: )?")
    classifiers = [each for each in stated.get_all("Classifier") or () if prefix.match(each)]
    return {prefix.sub("", each) for each in classifiers} or set(stated.get_all("License") or ["none"])


def test_every_licence_lets_cxrd_be_passed_on() -> None:
    for release in releases("extras"):
        if not release.here:
            continue
        try:
            found = licences(release.name)
        except importlib.metadata.PackageNotFoundError:
            # An extra that is not installed here; what serves is.
            assert release.name not in {each.name for each in releases("serving")}, release.name
            continue
        assert found <= LICENCES or found == {WEAK.get(release.name)}, f"{release.name}: {found}"
    assert not set(WEAK) & {release.name for release in releases("serving")}


def test_what_security_checks_find_is_excused_with_a_reason() -> None:
    files = [
        path for room in ("dicom_io", "modeltrain", "worker", "benchmarks") for path in (ROOT / room).rglob("*.py")
    ]
    for path in files:
        excuses = re.findall(r"# noqa: (S\d+)(?:, \w+)*(.*)", path.read_text())
        covered: set[str] = set()
        for rule, words in excuses:
            assert words.startswith(" - ") or rule in covered, f"{path}: {rule} without a reason"
            if words.endswith("here and below"):
                covered.add(rule)


def test_the_container_may_do_little() -> None:
    service = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]["cxrd"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "user", "devices"} & set(service)
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.gpu"])
def test_an_image_is_no_root_and_installs_by_hashes(name: str) -> None:
    text = (ROOT / "docker" / name).read_text()
    run = text[text.rindex("FROM ") :]
    (user,) = re.findall(r"^USER (.+)$", run, re.MULTILINE)
    assert all(int(number) > 0 for number in user.split(":"))
    assert re.findall(r"pip install .*--require-hashes", text)
    assert "pip install" not in run
