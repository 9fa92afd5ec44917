"""How many images of a folder does the model find out of distribution?

    python -m benchmarks.out_of_distribution FOLDER... [--model FOLDER] [--second-half]

JPEG and PNG pictures and DICOM objects; what cannot be rendered is counted, since it is never analysed either. Ages in
headers are not looked at: this is the image's own score. `--second-half` takes the second half of the names in order,
for a folder whose first half was looked at while the model's limits were set.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from dicom_io.errors import Permanent
from modeltrain.model.card import load_card, shipped_model
from modeltrain.model.preprocess import read_and_tell, to_input
from worker.inference.engine import open_engine
from worker.settings import ModelSettings


def main() -> None:
    """Read the command line and print one line a folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--second-half", action="store_true")
    parser.add_argument("--each", action="store_true", help="also print each image's score")
    options = parser.parse_args()
    card = load_card(options.model or shipped_model())
    engine = open_engine(card, ModelSettings())
    for folder in options.folders:
        files = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else [folder]
        files = files[len(files) // 2 :] if options.second_half else files
        scores, unreadable = [], 0
        for path in files:
            try:
                image = to_input(read_and_tell(path)[0], card.input_size)
            except Permanent:
                unreadable += 1
                continue
            scores.append(float(engine.predict(image[np.newaxis]).outlier[0]))
            if options.each:
                print(f"{scores[-1]:9.3f}  {path.name}")
        flagged = sum(score >= 1 for score in scores)
        share = f"{100 * flagged / len(scores):.1f} %" if scores else "–"
        print(
            f"{folder}: {flagged} of {len(scores)} out of distribution ({share}); {unreadable} cannot be rendered",
            flush=True,
        )


if __name__ == "__main__":
    main()
