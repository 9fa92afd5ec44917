"""`make fuzz`: many cases, two harnesses at a time; prints how they ended, and each fault with how to repeat it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.fuzz.campaign import NAMES, repeat, run


def main() -> int:
    """Run the cases; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--harness", action="append", choices=NAMES, help="only this one")
    parser.add_argument("--number", type=int, help="only this case of it")
    parser.add_argument("--file", type=Path, help="run the bytes of this file in place of cases")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"))
    options = parser.parse_args()
    names = options.harness or list(NAMES)
    if options.file is not None or options.number is not None:
        if len(names) != 1:
            parser.error("--file and --number need one --harness")
        outcomes = [repeat(names[0], options.seed, options.number, options.file, options.out)]
    else:
        outcomes = run(names, options.seed, options.cases, options.out, options.jobs)
    for each in outcomes:
        print(each.table())
    faults = [fault for each in outcomes for fault in each.faults]
    for fault in faults:
        print(fault)
    total = sum(each.cases for each in outcomes)
    print(f"{total} cases, seed {options.seed}: {len(faults)} faults")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
