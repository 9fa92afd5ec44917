"""How the command line ends on mistakes and faults: each is a line of its own, and none is a traceback."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from sqlalchemy import Engine, text

from tests.acceptance.program import invoke
from tests.support import earlier_ledgers
from tests.support.disk import small_disk
from tests.support.orthanc import free_port
from worker.cli.app import main
from worker.database.connection import connect
from worker.ledger import migrations
from worker.ledger.database import open_ledger
from worker.settings import load
from worker.storage.blobs import Blobs


def test_each_mistake_in_the_settings_has_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text("scp: {prt: 1}\nfoo: 1\n")
    monkeypatch.setattr(sys, "argv", ["cxrd", "check", "--config", str(file)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines() == [
        f"cxrd: {file}:1: scp.prt: unknown setting; did you mean port?",
        f"cxrd: {file}:2: foo: unknown setting",
    ]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A settings file whose folder holds a current ledger."""
    file = tmp_path / "config.yaml"
    pacs = {"name": "pacs", "host": "127.0.0.1", "port": 9, "ae_title": "PACS"}
    parts = {"storage": {"folder": "disk/data", "min_free_mb": 0}, "scp": {"port": free_port()}}
    file.write_text(yaml.safe_dump({**parts, "destinations": [pacs]}))
    return file


def one_line(config: Path, *arguments: str) -> str:
    """Run a command that must fail, and return its only line."""
    words = iter(arguments)
    command = [next(words), *([next(words)] if arguments[0] in ("audit", "db", "feedback", "models") else [])]
    done = invoke(*command, "-c", config, *words)
    assert done.returncode == 2, done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("cxrd: ")
    return line.removeprefix("cxrd: ")


@contextmanager
def earlier(config: Path, revision: str) -> Iterator[Engine]:
    """Put the ledger of an earlier version into the storage folder."""
    folder = config.parent / "disk" / "data"
    folder.mkdir(parents=True)
    engine = connect(f"sqlite:///{folder / 'ledger.sqlite'}")
    earlier_ledgers.make(engine, revision)
    yield engine
    engine.dispose()


@pytest.mark.parametrize("contents", [b"", b"\n \n"])
def test_an_empty_settings_file_is_a_mistake(tmp_path: Path, contents: bytes) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(contents)
    assert one_line(file, "check") == f"{file}: the file is empty; put it back, or write a setting into it"
    file.write_text("# only a comment, and everything by default\n")
    assert load(file).scp.port == 11112


@pytest.mark.parametrize("key", ["²", "9" * 19, "9" * 5000, "-1", "1.2.3"])
def test_what_is_no_receipt_is_not_found(config: Path, key: str) -> None:
    assert one_line(config, "audit", "show", "--", key) == f"{key}: no received image has this number or UID"


@pytest.mark.parametrize("when", ["99999999999d", "9" * 5000 + "h", "²d", "٣d", "0001-01-01T00:00+14:00", "later"])
def test_what_is_no_time_is_named(config: Path, when: str) -> None:
    for option in ("--since", "--until"):
        assert one_line(config, "audit", "list", option, when).startswith(f"{when}: not a time; say 7d, ")


@pytest.mark.parametrize(
    "arguments",
    [["redeliver", "--receipt", "9" * 19], ["retry", "--receipt", "0"], ["audit", "list", "--limit", "9" * 19]],
)
def test_a_number_out_of_range_is_a_mistake(config: Path, arguments: list[str]) -> None:
    done = invoke(*arguments, "-c", config)
    assert done.returncode == 2
    assert f"Invalid value for '{arguments[-2]}'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_receipt_or_destination_that_is_not_there_is_named(config: Path) -> None:
    with earlier(config, "0006") as engine:
        migrations.upgrade(engine)
    for command in ("redeliver", "retry"):
        assert one_line(config, command, "--receipt", "999") == "receipt 999 does not exist"
    assert one_line(config, "redeliver", "--to", "pcas") == "pcas: no such destination; there are: pacs"
    assert one_line(config, "redeliver", "--to", "archive") == (
        "archive: not in the configuration, so nothing can be sent there (deliveries in the audit: 1); "
        "put it back under destinations, restart cxrd, give the command again"
    )
    assert invoke("redeliver", "--to", "pacs", "-c", config).stdout == "Deliveries due now: 1\n"


def test_a_database_of_an_earlier_version_is_one_line_until_it_is_migrated(config: Path) -> None:
    current = invoke("db", "current", "-c", config)
    assert current.returncode == 0
    assert "Revision: none" in current.stdout
    assert not (config.parent / "disk").exists()
    with earlier(config, "0002") as engine:
        _until_it_is_migrated(config)
        with engine.begin() as connection:
            connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert "revision 9999, which this version of cxrd does not know" in one_line(config, "db", "migrate")


def _until_it_is_migrated(config: Path) -> None:
    said = (
        f"the database is at revision 0002, this version of cxrd needs {migrations.NEEDED}: "
        "stop cxrd, copy the database, run `cxrd db migrate`"
    )
    for command in (["audit", "list"], ["audit", "verify"], ["redeliver"], ["serve"], ["feedback", "list"]):
        assert one_line(config, *command) == said
    assert f"FAIL  database: {said}" in invoke("check", "-c", config).stdout
    current = invoke("db", "current", "-c", config)
    assert (current.returncode, current.stdout.splitlines()[1:]) == (
        2,
        ["Revision: 0002", f"Needed:   {migrations.NEEDED}"],
    )
    migrated = invoke("db", "migrate", "-c", config)
    assert (migrated.returncode, migrated.stdout.splitlines()[1:]) == (
        0,
        ["Before:   0002", f"Revision: {migrations.NEEDED}"],
    )
    assert invoke("db", "current", "-c", config).returncode == 0
    assert invoke("db", "migrate", "-c", config).stdout.startswith("Nothing to do: ")
    assert invoke("audit", "verify", "-c", config).returncode == 0


@pytest.fixture
def read_only(config: Path) -> Iterator[Path]:
    """The same, with the storage folder on a disk that is mounted read-only."""
    with small_disk(config.parent / "disk", 20_000_000) as disk:
        open_ledger(load(config)).engine.dispose()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        yield config


def test_a_read_only_storage_folder_is_one_line_for_every_command(read_only: Path) -> None:
    in_database = "the ledger cannot be written: its folder or file is read-only"
    for arguments in (
        ["audit", "list"],
        ["audit", "show", "1"],
        ["audit", "export", str(read_only.parent / "x.csv")],
        ["audit", "refusals"],
        ["audit", "verify"],
        ["db", "current"],
        ["drift"],
        ["feedback", "add", "--verdict", "NORMAL", "--reader", "jd", "--sop", "1.2"],
        ["feedback", "list"],
        ["pull", "pacs", "--date", "20260101"],
        ["pull", "pacs", "--date", "20260101", "--get"],
        ["reanalyze", "--all"],
        ["reanalyze", "--status"],
        ["redeliver"],
        ["retry"],
    ):
        assert one_line(read_only, *arguments) == in_database, arguments
    for arguments in (
        ["serve"],
        ["models", "add", str(Path("models").resolve() / Path("models/CURRENT").read_text().strip())],
    ):
        assert "Read-only file system" in one_line(read_only, *arguments), arguments
    checked = invoke("check", "-c", read_only)
    assert checked.returncode == 2
    assert f"FAIL  disk: {read_only.parent / 'disk' / 'data'}: Read-only file system" in checked.stdout
    assert f"FAIL  database: {in_database}" in checked.stdout
    assert checked.stderr == ""


@pytest.mark.parametrize("left", [None, b""])
def test_a_ledger_that_was_lost_is_not_begun_anew(tmp_path: Path, left: bytes | None) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("storage: {folder: data}")
    folder = tmp_path / "data"
    Blobs(folder / "objects").put(b"an image")
    if left is not None:
        (folder / "ledger.sqlite").write_bytes(left)
    for command in (("audit", "list"), ("serve",)):
        refused = invoke(*command, "-c", config)
        what = "is missing" if left is None else "is empty"
        assert (refused.returncode, f"ledger.sqlite {what}, but" in refused.stderr) == (2, True), refused.stderr


def test_a_look_in_the_wrong_folder_makes_nothing(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("storage: {folder: data}")
    refused = invoke("status", "-c", config)
    assert (refused.returncode, "never started here" in refused.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == [config]
