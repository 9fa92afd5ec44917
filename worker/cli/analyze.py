"""`cxrd analyze`: radiographs read without a server."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from dicom_io.finding import readable
from worker.cli import options, output


def analyze(
    paths: Annotated[
        list[Path], typer.Argument(metavar="FILE|FOLDER...", help="DICOM objects, JPEG or PNG; folders are searched")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for pictures and DICOM objects")] = Path("cxrd-out"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each file")] = False,
    maps: Annotated[
        bool, typer.Option("--maps", help="Also write the evidence map of each file: NAME.npy, float32 [224, 224]")
    ] = False,
    config: options.Config = None,
) -> None:
    """Read radiographs without a server: overlay pictures, result objects and a table of findings.

    Exit code 2 means that at least one file failed. One bad file never stops the others.
    """
    from worker.engines.offline import analyze as run
    from worker.engines.offline import find
    from worker.extras import require_configured
    from worker.inference.analyzer import Reader
    from worker.inference.serving import model_folder

    settings = options.load(config)
    require_configured(settings)
    files = find(paths)
    output.make_folder(out)
    reader = Reader(settings, model_folder(settings))
    answers = []
    with output.advancing("reading", len(files)) as (advance, _):
        for answer in run(files, out, reader, settings, maps=maps):
            if as_json:
                output.json_value(answer.as_json(), indent=None)
            answers.append(answer)
            advance(len(answers), len(files))
    reader.close()
    if not as_json:
        show_findings([answer.as_json() for answer in answers])
        output.line("For research use. Not for diagnosis.")
        output.line(f"Pictures and DICOM objects: {out}")
    failed = [answer for answer in answers if answer.status == "failed"]
    for answer in failed:
        output.note(f"{answer.file}: {answer.reason}")
    if failed:
        raise typer.Exit(2)


def show_findings(rows: Iterable[dict[str, Any]]) -> None:
    """Print findings as a table, one row for each file."""
    output.table(("file", "status", "answer", "probability", "remarks"), map(_cells, rows))


def _cells(row: dict[str, Any]) -> tuple[output.Cell, ...]:
    answer, probability = row["answer"] or "", row["probability"]
    return (
        Path(row["file"]).name,
        row["status"].replace("_", " "),
        (answer, "red") if answer == "flagged" else answer,
        "" if probability is None else readable(probability, 3),
        _remarks(row),
    )


def _remarks(row: dict[str, Any]) -> str:
    """Return why a file was not analysed, or what is unusual about it; and which kinds of result it lacks."""
    left_out = (f"no {kind}: {why.removeprefix(f'{kind}: ')}" for kind, why in row.get("left_out", {}).items())
    return "; ".join(each for each in (row["reason"] or row["caution"], *left_out) if each)
