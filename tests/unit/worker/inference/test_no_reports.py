"""ONNX Runtime reports nothing to its makers: it keeps no id of the machine, and so has none to report under."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_RUN = """
import sys, time
from pathlib import Path
from worker.inference.engine import OnnxEngine
OnnxEngine(Path(sys.argv[1]), 1)
time.sleep(1)
"""


def test_no_id_of_the_machine_is_kept(tmp_path: Path) -> None:
    environment = os.environ | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    model = next(Path("models").glob("*/model.onnx")).resolve()
    subprocess.run([sys.executable, "-c", _RUN, str(model)], env=environment, check=True)
    assert list(tmp_path.rglob("*")) == []
