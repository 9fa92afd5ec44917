"""Compression in many threads at once, as couriers do it: encoders that cannot do that must not end the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dicom_io.pixels.compression import LOSSLESS

_PROGRAM = """
import copy, sys
from concurrent.futures import ThreadPoolExecutor
from dicom_io.objects.jpeg import lose
from dicom_io.pixels.compression import compress
from tests.unit.dicom_io.objects.test_secondary_capture import made_from
from tests.unit.worker.results.test_result_set import PICTURE, source

picture = made_from(source("DX"), rgb=PICTURE)

def one(number):
    dataset = copy.deepcopy(picture)
    lose(dataset) if sys.argv[1] == "lossy" else compress(dataset, sys.argv[1])
    return len(dataset.PixelData)

with ThreadPoolExecutor(5) as pool:
    print(len(set(pool.map(one, range(int(sys.argv[2]))))))
"""


@pytest.mark.parametrize("way", [*(str(each) for each in LOSSLESS), "lossy"])
def test_many_at_once_give_the_same(way: str) -> None:
    count = 40 if way.startswith("1.2.840.10008.1.2.4.8") or way.endswith((".57", ".70")) else 200  # by processes
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, way, str(count)], check=False, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr[-2000:]
