"""The log: lines on standard error, and no harm where there is none."""

from __future__ import annotations

import io
import json
import sys
import threading

import pytest
import structlog

from worker import logs


def test_a_line_is_json_with_level_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "json")
    log = structlog.get_logger("cxrd.test")
    log.debug("unseen")
    log.info("seen", receipt=1)
    (line,) = capsys.readouterr().err.splitlines()
    said = json.loads(line)
    assert (said["event"], said["level"], said["receipt"]) == ("seen", "info", 1)
    assert said["timestamp"].endswith("Z")


class _Broken(io.StringIO):
    def write(self, _words: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("how", ["closed", "broken", "none"])
def test_a_standard_error_that_is_gone_ends_nothing(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    gone: io.StringIO | None = {"closed": io.StringIO(), "broken": _Broken(), "none": None}[how]
    if how == "closed" and gone is not None:
        gone.close()
    with monkeypatch.context() as here:
        here.setattr(sys, "stderr", gone)
        logs.configure("info", "auto")
        structlog.get_logger("cxrd.test").error("unheard")


def test_a_thread_that_an_error_ends_leaves_one_line_without_the_errors_text(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise ValueError("Doe^Jane")

    monkeypatch.setattr(threading, "excepthook", threading.excepthook)  # put back afterwards
    logs.configure("info", "json")
    logs.tell_of_threads()
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    (line,) = capsys.readouterr().err.splitlines()
    said = json.loads(line)
    assert said["event"] == "thread_ended"
    assert said["reason"].startswith("unexpected ValueError at worker/test_logs.py:")
