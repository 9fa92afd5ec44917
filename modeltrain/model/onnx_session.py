"""ONNX Runtime on the CPU. Nothing else imports it to answer images, and it is told to report to nobody first.

Since version 1.32 it keeps an id of the machine in the home folder and looks its makers up on the network when it is
imported, unless the environment says otherwise (`modeltrain/__init__.py`).
"""

from __future__ import annotations

from pathlib import Path

import onnxruntime

VERSION: str = onnxruntime.__version__
_ERRORS_ALONE = 3


def open_session(path: Path, threads: int = 0, *, spinning: bool = True) -> onnxruntime.InferenceSession:
    """Load a network.

    Parameters
    ----------
    threads
        Of one forward pass; 0 for as many as there are cores.
    spinning
        Whether they may spin between two forward passes: quicker, and a core that nobody else can have.

    Raises
    ------
    Exception
        The file cannot be loaded: ONNX Runtime's errors have no common base but this.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _ERRORS_ALONE
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
