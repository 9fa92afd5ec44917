"""What is freed is given back to the system."""

from __future__ import annotations

import platform
import subprocess
import sys
from typing import get_args

import pytest
from highdicom import _standard_utils

from tests.unit.worker.results.test_result_set import answered, source
from worker.destination_settings import Kind

_PROGRAM = """
import ctypes, sys
import numpy as np
from worker.memory import give_back

names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
Info = type("Info", (ctypes.Structure,), {"_fields_": [(name, ctypes.c_size_t) for name in names]})
mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Info

if sys.argv[1] == "yes":
    give_back()
np.ones(20_000_000, np.uint8)  # freed at once: by itself glibc keeps from now on what is smaller
before = mallinfo().hblkhd
radiograph = np.ones(10_000_000, np.uint8)
print(mallinfo().hblkhd - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc, and has no such setting")
@pytest.mark.parametrize(("asked", "its_own"), [("yes", 10_000_000), ("no", 0)])
def test_a_radiograph_has_a_block_of_its_own_that_is_given_back(asked: str, its_own: int) -> None:
    done = subprocess.run([sys.executable, "-c", _PROGRAM, asked], check=True, capture_output=True, text=True)
    assert int(done.stdout) == pytest.approx(its_own, abs=100_000)


_ONE_AFTER_ANOTHER = """
import resource
import numpy as np
from worker.memory import give_back, give_back_all, keep_for_the_next


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(20_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


keep_for_the_next()
faults()
print(max(faults() for _ in range(3)))
before = resident()
give_back_all()
print(before - resident())
give_back()
faults()
print(min(faults() for _ in range(3)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc, and has no such setting")
def test_the_next_image_gets_the_memory_of_the_last_one() -> None:
    done = subprocess.run([sys.executable, "-c", _ONE_AFTER_ANOTHER], check=True, capture_output=True, text=True)
    kept, given_back, anew = map(int, done.stdout.split())
    assert kept < 10
    assert given_back > 19_000_000
    assert anew > 1_000


def test_results_need_no_table_of_all_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes 63 MB, and tells nothing of a radiograph that its header does not."""

    def fail() -> dict[str, list[object]]:
        raise AssertionError("the table of all attributes is read")

    monkeypatch.setattr(_standard_utils, "get_module_attribute_map", fail)
    made = answered(source(), kinds=get_args(Kind))
    assert {result.kind for result in made.results} == set(get_args(Kind))
