"""How much longer the ledger's work takes the more it holds: generated rows, on SQLite and on PostgreSQL.

    .venv/bin/python -m benchmarks.growth [--images 10000 --images 1000000] [--in-a-row 5000] [--out FILE.json]

Times what cxrd does with its ledger by itself, and what people ask it (`ledger_work.py`), on ledgers of so many images
(`ledger_rows.py`); then the whole life of images, one after the other, on an empty ledger. Prints a Markdown table of
medians, and draws a picture beside the JSON file. A million images are 13 million rows: 6 GB of disk, and five minutes
until they are there, for each database.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from benchmarks import common
from benchmarks.ledger_rows import Amount, fill, size_on_disk
from benchmarks.ledger_work import Act, Work
from worker.database.connection import connect
from worker.ledger import migrations
from worker.ledger.receipts import Ledger

SERVER = os.environ.get("CXRD_TEST_POSTGRES", "postgresql+psycopg://root@127.0.0.1:5432/postgres")
_PATIENCE = 60.0
_STEP = 100
"""Images in a row that are timed together."""
Costs = dict[str, float]
"""Milliseconds of each act."""


@contextmanager
def sqlite(folder: Path) -> Iterator[Engine]:
    """Yield an empty ledger in a file."""
    path = folder / f"{uuid.uuid4().hex}.sqlite"
    engine = connect(f"sqlite:///{path}", busy_timeout=_PATIENCE)
    migrations.upgrade(engine)
    try:
        yield engine
    finally:
        engine.dispose()
        for each in folder.glob(f"{path.name}*"):
            each.unlink()


@contextmanager
def postgres(_folder: Path) -> Iterator[Engine]:
    """Yield an empty ledger in a database of its own on `SERVER`.

    Raises
    ------
    Missing
        There is no server.
    """
    name = f"cxrd_growth_{uuid.uuid4().hex[:8]}"
    server = create_engine(SERVER, isolation_level="AUTOCOMMIT")
    try:
        with server.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
    except SQLAlchemyError as error:
        raise common.Missing(f"no PostgreSQL at {SERVER} (set CXRD_TEST_POSTGRES)") from error
    engine = connect(f"{SERVER.rsplit('/', 1)[0]}/{name}", busy_timeout=_PATIENCE)
    try:
        migrations.upgrade(engine)
        yield engine
    finally:
        engine.dispose()
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        server.dispose()


DATABASES = {"SQLite": sqlite, "PostgreSQL": postgres}


def costs(acts: dict[str, Act], rounds: int) -> Costs:
    """Return the median milliseconds of each act; they take turns, and the first round does not count."""
    times: dict[str, list[float]] = {name: [] for name in acts}
    for number in range(rounds + 1):
        for name, act in acts.items():
            begin = time.perf_counter()
            act()
            if number:
                times[name].append(1000 * (time.perf_counter() - begin))
    return {name: statistics.median(each) for name, each in times.items()}


def measurement(engine: Engine, amount: Amount, rounds: int) -> dict[str, Any]:
    """Fill a ledger, and return what its work costs."""
    begin = time.perf_counter()
    rows = fill(engine, amount, dt.datetime.now(dt.UTC))
    took = time.perf_counter() - begin
    size = size_on_disk(engine)
    work = Work(Ledger(engine, _PATIENCE))
    groups = {"life": work.life(), "alone": work.alone(), "sweep": work.sweep(), "questions": work.questions()}
    return {
        "images": amount.finished,
        "waiting": amount.waiting,
        "rows": sum(rows.values()),
        "bytes_per_image": round(size / amount.images),
        "filled_in_seconds": round(took, 1),
        "milliseconds": {name: costs(acts, rounds) for name, acts in groups.items()},
    }


def in_a_row(engine: Engine, count: int) -> dict[str, list[float]]:
    """Return the milliseconds of an image's whole life in the ledger, the mean of each hundred in a row.

    Wall time, and CPU time of this process: that of a server is not in it.
    """
    acts = Work(Ledger(engine, _PATIENCE)).life()
    means: dict[str, list[float]] = {"wall": [], "cpu": []}
    for _ in range(count // _STEP):
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(_STEP):
            for act in acts.values():
                act()
        means["wall"].append(1000 * (time.perf_counter() - wall) / _STEP)
        means["cpu"].append(1000 * (time.process_time() - cpu) / _STEP)
    return means


def table(runs: dict[str, list[dict[str, Any]]]) -> str:
    """Return the Markdown table: an act a line, a column for each ledger."""
    columns = [(name, each) for name, own in runs.items() for each in own]
    heads = [f"{name}, {each['images']:,} images" for name, each in columns]
    lines = [f"| milliseconds | {' | '.join(heads)} |", "|---|" + "---:|" * len(columns)]
    for group, acts in columns[0][1]["milliseconds"].items():
        for act in acts:
            cells = (f"{each['milliseconds'][group][act]:.2f}" for _, each in columns)
            lines.append(f"| {act} | {' | '.join(cells)} |")
    lines += [
        f"| {name} | {' | '.join(str(each[name]) for _, each in columns)} |" for name in ("rows", "bytes_per_image")
    ]
    return "\n".join(lines) + "\n"


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw what grows and what does not: each act by the images that the ledger holds, and images in a row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5), layout="constrained")
    panels = figure.subplots(1, len(result["runs"]) + 1)
    for panel, (name, runs) in zip(panels, result["runs"].items(), strict=False):
        sizes = [each["images"] for each in runs]
        for group, colour in (
            ("life", "#2f6db2"),
            ("alone", "#3a8f5c"),
            ("questions", "#c2571a"),
            ("sweep", "#888888"),
        ):
            for place, act in enumerate(runs[0]["milliseconds"][group]):
                values = [max(0.05, each["milliseconds"][group][act]) for each in runs]
                label = group if place == 0 else None
                panel.plot(sizes, values, color=colour, marker="o", ms=3, lw=1, alpha=0.7, label=label)
        panel.set(xscale="log", yscale="log", xlabel="images in the ledger", ylabel="milliseconds", title=name)
        panel.legend(fontsize=8)
    for (name, means), colour in zip(result["in_a_row"].items(), ("#2f6db2", "#c2571a"), strict=False):
        for kind, style in (("wall", "-"), ("cpu", "--")):
            places = [_STEP * (number + 1) for number in range(len(means[kind]))]
            panels[-1].plot(places, means[kind], style, color=colour, lw=1.2, label=f"{name}, {kind}")
    panels[-1].set(xlabel="images in a row", ylabel="milliseconds an image", title="An image's life in the ledger")
    panels[-1].set_ylim(bottom=0)
    panels[-1].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run it."""
    options = _options()
    runs: dict[str, list[dict[str, Any]]] = {}
    rows: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(dir=options.tmp) as folder:
        for name in options.database:
            opening = DATABASES[name]
            runs[name] = []
            for images in options.images:
                with opening(Path(folder)) as engine:
                    runs[name].append(measurement(engine, Amount(images, options.waiting), options.rounds))
                sys.stderr.write(f"{name}, {images} images: done\n")
            with opening(Path(folder)) as engine:
                rows[name] = in_a_row(engine, options.in_a_row)
    result = {"cores": os.cpu_count(), "load": os.getloadavg(), "runs": runs, "in_a_row": rows}
    sys.stdout.write(table(runs))
    for name, means in rows.items():
        for kind, each in means.items():
            if each:
                first, last = statistics.median(each[:5]), statistics.median(each[-5:])
                what = f"{options.in_a_row} images in a row, {kind}"
                sys.stdout.write(f"{name}, {what}: {first:.1f} ms at first, {last:.1f} at last\n")
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")
        draw(result, options.out.with_suffix(".png"))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--images", type=int, action="append", help="in a ledger (may be repeated); 10,000 and 1,000,000"
    )
    parser.add_argument("--waiting", type=int, default=200, help="images that wait besides")
    parser.add_argument("--rounds", type=int, default=9, help="rounds to take the medians of")
    parser.add_argument("--in-a-row", type=int, default=5000, help="images on an empty ledger")
    parser.add_argument("--database", action="append", choices=[*DATABASES], help="only this one (may be repeated)")
    parser.add_argument("--tmp", type=Path, help="where the temporary folder is made; default: the system's")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="also write the numbers as JSON, and a picture beside it"
    )
    options = parser.parse_args()
    options.images = options.images or [10_000, 1_000_000]
    options.database = options.database or [*DATABASES]
    if min(options.images) <= options.rounds or options.waiting <= options.rounds or options.rounds < 1:
        parser.error("--images and --waiting must be more than --rounds, which begins at 1")
    return options


if __name__ == "__main__":
    common.run(main)
