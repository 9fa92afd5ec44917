"""What peers, headers and the command line say reaches a person as text: it steers nothing and ends no command."""

from __future__ import annotations

import ast
import csv
import io
import json
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings, strategies
from sqlalchemy import String, Table, text

from tests.acceptance.program import invoke
from tests.support import earlier_ledgers
from tests.support.orthanc import free_port
from worker import logs
from worker.cli import output
from worker.database import columns
from worker.ledger import migrations
from worker.ledger.database import open_ledger
from worker.ledger.queries import write
from worker.printable import cell
from worker.settings import load

ROOT = Path(__file__).resolve().parents[4]
HOSTILE = (
    "[/x]",
    "[red]a",
    "[link=http://x]a",
    "\x1b[2Ja",
    "\x1b]0;title\x07",
    "\x9b31m",
    "a\r\nb\tc\x08",
    "\u202ea",
    '=HYPERLINK("http://x")',
    "@SUM(A1)",
    "+1-1",
    "\t=1",
    "\ue000",
    ":smile:",
    "[/x][red]a\x1b[2J\u202e\n",
)
# What only cxrd itself writes, from lists of its own.
OWN = {"state", "kind", "answer", "role", "prediction_set", "regions", "detail", "digest", "previous", "owner"}
COMMANDS = (
    ("audit", "list"),
    ("audit", "list", "--history"),
    ("audit", "list", "--format", "csv"),
    ("audit", "list", "--format", "json"),
    ("audit", "list", "--undelivered"),
    ("audit", "show", "1"),
    ("audit", "show", "2"),
    ("audit", "refusals"),
    ("audit", "verify"),
    ("status",),
    ("status", "--json"),
    ("db", "current"),
    ("feedback", "list"),
    ("feedback", "list", "--format", "csv"),
    ("reanalyze", "--status"),
)
# Slower ones, for which one text stands for all.
FURTHER = (
    ("check",),
    ("conformance",),
    ("models", "list"),
    ("models", "history"),
    ("retry",),
    ("redeliver", "--to", "pacs"),
    ("purge", "--before", "1d"),
    ("drift",),
    ("drift", "--metrics"),
)


def is_harmless(shown: str) -> bool:
    """Tell whether a terminal only shows a text."""
    return all(each == "\n" or unicodedata.category(each) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for each in shown)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A settings file with a ledger that holds an image in each state."""
    folder = tmp_path_factory.mktemp("hostile")
    file = folder / "config.yaml"
    pacs = {"name": "pacs", "host": "127.0.0.1", "port": 9, "ae_title": "PACS", "timeout": 1}
    parts = {"storage": {"folder": "data", "min_free_mb": 0}, "scp": {"port": free_port()}}
    file.write_text(yaml.safe_dump({**parts, "destinations": [pacs]}))
    (folder / "data").mkdir()
    from worker.database.connection import connect

    engine = connect(load(file).ledger_url)
    earlier_ledgers.make(engine, earlier_ledgers.REVISIONS[-1])
    migrations.upgrade(engine)
    engine.dispose()
    return file


def _text_columns() -> Iterator[tuple[str, str]]:
    tables: dict[str, Table] = dict(columns.Table.metadata.tables)
    for name, table in tables.items():
        for each in table.columns:
            if isinstance(each.type, String) and each.name not in OWN and not each.primary_key:
                yield name, each.name


def _fill(file: Path, hostile: str) -> None:
    """Write a text into every column of the ledger that can hold one; where they must differ, with a number."""
    with open_ledger(load(file)).writing() as connection:
        for table, column in _text_columns():
            connection.execute(text(f"UPDATE {table} SET {column} = :hostile || rowid"), {"hostile": hostile})
        connection.execute(
            text("UPDATE event SET detail = :detail WHERE kind = 'refused'"),
            {"detail": json.dumps({"calling_ae": hostile, "reason": hostile, "status": hostile})},
        )


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_text_in_the_ledger_steers_a_terminal(config: Path, hostile: str, tmp_path: Path) -> None:
    _fill(config, hostile)
    for command in (*COMMANDS, *(FURTHER if hostile == HOSTILE[-1] else ())):
        words = 2 if command[0] in ("audit", "db", "feedback", "models") else 1
        done = invoke(*command[:words], "-c", config, *command[words:])
        assert done.returncode != 70, (command, done.stderr)
        assert is_harmless(done.stdout.replace("\r\n", "\n")), (command, done.stdout)
        assert is_harmless(done.stderr), (command, done.stderr)
        if command == ("audit", "list"):
            assert "receipt_id" in done.stdout or "receip" in done.stdout, done
    exported = tmp_path / "findings.csv"
    assert invoke("audit", "export", exported, "-c", config).returncode == 0
    for row in csv.reader(io.StringIO(exported.read_text(encoding="utf-8"))):
        for each in row:
            assert is_harmless(each)
            assert not each.startswith(("=", "@", "\t", "\r"))
            assert not each.startswith(("+", "-")) or _is_number(each)


def _is_number(shown: str) -> bool:
    try:
        float(shown)
    except ValueError:
        return False
    return True


def test_brackets_are_shown_as_they_are(config: Path) -> None:
    with open_ledger(load(config)).writing() as connection:
        connection.execute(text("UPDATE receipt SET accession_number = '[/x][red]' || id, reason = ''"))
    shown = invoke("audit", "list", "-c", config)
    assert shown.returncode == 0
    assert "[/x][red]1" in shown.stdout


@given(strategies.text())
def test_lines_notes_and_tables_are_harmless(words: str) -> None:
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as here:
        here.setattr(sys, "stdout", out)
        here.setattr(sys, "stderr", err)
        output.line(words)
        output.note(words)
        output.counts([(words, words)])
        output.table((words or "x", "b"), [(words, (words, "red"))])
        output.json_value({words: words})
        output.fault(ValueError(words))
    assert is_harmless(out.getvalue())
    assert is_harmless(err.getvalue())


@given(strategies.one_of(strategies.text(), strategies.sampled_from(HOSTILE)))
def test_a_cell_of_a_csv_file_is_no_formula(words: str) -> None:
    target = io.StringIO()
    write([{"a": words, "b": -1.5}], "csv", target)
    ((shown, number),) = list(csv.reader(io.StringIO(target.getvalue())))[1:]
    assert number == "-1.5"
    assert not shown.lstrip().startswith(("=", "+", "-", "@", "\t", "\r"))
    assert is_harmless(shown)
    assert cell(-1.5) == -1.5
    # A spreadsheet that takes semicolons to divide cells, as in much of Europe, must not find a formula either.
    for each in target.getvalue().split("\n")[1].split(";")[1:]:
        assert not each.lstrip(' "').startswith(("=", "+", "-", "@"))


def test_a_semicolon_does_not_begin_a_formula() -> None:
    assert cell("A;=1+1;") == "A;'=1+1;"
    assert cell('A; "@SUM(1)') == "A; \"'@SUM(1)"
    assert cell("A; B-1; 2") == "A; B-1; 2"


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("style", ["console", "json"])
def test_a_line_of_the_log_steers_no_terminal(capsys: pytest.CaptureFixture[str], hostile: str, style: Any) -> None:
    logs.configure("debug", style)
    logs.log.info("received", calling_ae=hostile, nested={"reason": [hostile]})
    assert is_harmless(capsys.readouterr().err)


ABSURD = (
    ("audit", "show", "²"),
    ("audit", "show", "9" * 5000),
    ("audit", "show", "\udcff"),
    ("audit", "show", "\x1b[2J"),
    ("audit", "list", "--since", "99999999999d"),
    ("audit", "list", "--since", "0001-01-01"),
    ("audit", "list", "--since", "\x1b]0;x\x07"),
    ("audit", "list", "--limit", "9" * 30),
    ("audit", "list", "--min", "nan"),
    ("audit", "list", "--min", "1e999"),
    ("audit", "list", "--accession", "\udcff"),
    ("audit", "list", "--study", "[/x]"),
    ("audit", "list", "--status", "[/x]\x1b[2J"),
    ("audit", "export", "/nowhere/x.csv"),
    ("audit", "export", "x\x1b[2J.txt"),
    ("audit", "[/x]"),
    ("[/x]\x1b[2J",),
    ("check", "[/x]\x1b[2J"),
    ("redeliver", "--to", "[/x]\x1b[2J"),
    ("redeliver", "--receipt", "9" * 40),
    ("purge", "--before", "9" * 400 + "d"),
    ("drift", "--since", "9999-12-31T23:59:59-14:00"),
    ("reanalyze", "--model", "\x1b[2J", "--all"),
    ("feedback", "add", "1", "[/x]"),
    ("models", "promote", "\x1b[2J"),
    ("analyze", "/nowhere\x1b[2J"),
)


@pytest.mark.parametrize("words", ABSURD, ids=repr)
def test_no_argument_ends_in_a_traceback(config: Path, words: tuple[str, ...]) -> None:
    done = invoke(*words, CXRD_CONFIG=str(config))
    assert done.returncode in (0, 1, 2, 3), done.stderr
    assert "Traceback" not in done.stderr
    assert is_harmless(done.stdout.replace("\r\n", "\n"))
    assert is_harmless(done.stderr)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(strategies.text(strategies.characters(exclude_characters="\0"), min_size=1))
def test_no_argument_at_all_does(config: Path, word: str) -> None:
    for words in (("audit", "show", "--", word), ("audit", "list", f"--since={word}", f"--accession={word}")):
        done = invoke(*words, CXRD_CONFIG=str(config))
        assert done.returncode in (0, 2), done.stderr
        assert is_harmless(done.stderr)


DEEP = 3000
YAMLS = {
    "deep": "a: " + "[" * DEEP + "]" * DEEP,
    "deep block": "\n".join(" " * each + "a:" for each in range(DEEP)),
    "aliases": "a0: &a0 [x]\n" + "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)),
    "itself": "a: &a [*a]",
    "date": "a: 2026-99-99",
    "digits": f"a: {'1' * 5000}",
    "truth": "a: !!bool maybe",
    "time": "a: !!timestamp x",
    "number": "a: !!float x",
    "control": "a: \x1b[2J",
    "key": '"\\e[2J[/x]": 1',
    "name": 'destinations: [{name: "\\e[2J", host: "[/x]", port: 1, ae_title: "\\e"}]',
}


@pytest.mark.parametrize("case", YAMLS)
def test_no_settings_file_ends_in_a_traceback(tmp_path: Path, case: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(YAMLS[case])
    done = invoke("db", "current", "-c", file)
    assert done.returncode == 2, done
    assert done.stderr.startswith("cxrd: ")
    assert is_harmless(done.stderr)


def test_a_defect_of_ours_quotes_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    from worker.ledger import queries

    def fail(*_arguments: object) -> None:
        try:
            raise KeyError("Doe^Jane")
        except KeyError as error:
            raise RuntimeError("Doe^Jane") from error

    monkeypatch.setattr(queries, "moment", fail)
    done = invoke("audit", "list", "--since", "1d")
    assert done.returncode == 70
    assert "Doe" not in done.stderr
    assert "unexpected RuntimeError" in done.stderr
    assert f"test_hostile.py:{fail.__code__.co_firstlineno + 4} in fail" in done.stderr


DOORS = {"worker/cli/output.py", "worker/logs.py", "worker/engines/child.py"}


def test_commands_print_by_one_door() -> None:
    """`output` alone writes for a person; the log has a door of its own, and the supervisor's child a pipe."""
    for file in sorted((ROOT / "worker").rglob("*.py")):
        if str(file.relative_to(ROOT)) in DOORS:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("print", "typer.echo", "typer.secho", "Console", "sys.stdout.writelines"), file
                assert not called.startswith(("sys.stdout.write", "sys.stderr.write")), file
