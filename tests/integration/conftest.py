"""A running daemon, and peers that others wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from worker.engines.daemon import Daemon
from worker.settings import Settings


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Start daemons in this process: `daemon(destinations=[(name, port, title)], **parts of the settings)`."""
    started: list[Daemon] = []

    def start(
        destinations: list[tuple[str, int, str] | dict[str, Any]] | None = None, **parts: dict[str, Any]
    ) -> Daemon:
        settings = Settings.model_validate(
            {
                "storage": {"folder": tmp_path / "data", "min_free_mb": 0},
                "outbox": {"retry_first": 0.1, "retry_max": 0.5},
                "destinations": [
                    each
                    if isinstance(each, dict)
                    else {"name": each[0], "host": "127.0.0.1", "port": each[1], "ae_title": each[2]}
                    for each in destinations or []
                ],
                **parts,
                "scp": {"port": 0} | parts.get("scp", {}),
                # Drawn radiographs may be unlike those that the model was made for: they are answered all the same.
                "model": {"out_of_distribution": "warn"} | parts.get("model", {}),
            }
        )
        daemon = Daemon(settings)
        daemon.start()
        started.append(daemon)
        return daemon

    yield start
    for each in started:
        each.stop()
