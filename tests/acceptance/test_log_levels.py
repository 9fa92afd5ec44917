"""What somebody who watches the log must see: an image that failed, a result that a destination does not take now."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.acceptance.program import Service
from tests.support.peers import chest, receiving, send, wait_for


def lines(service: Service) -> list[dict[str, Any]]:
    return [json.loads(line) for line in service.log.read_text().splitlines() if line.startswith("{")]


def test_a_failed_image_is_an_error(serve: Callable[..., Service]) -> None:
    service = serve()
    service.start()
    broken = chest("broken")
    broken.PixelData = bytes(len(broken.PixelData))  # an image that shows nothing
    send(service.port, [broken])
    wait_for(lambda: service.findings("--status", "failed"), 60)
    service.stop()
    (failed,) = [line for line in lines(service) if line.get("receipt") == 1 and "failed" in json.dumps(line)]
    assert failed["level"] == "error"


@pytest.mark.parametrize(
    "status", [0xA700, pytest.param(0x0110, marks=pytest.mark.xfail(strict=True, reason="postponed without a word"))]
)
def test_a_temporary_refusal_is_a_warning(serve: Callable[..., Service], status: int) -> None:
    with receiving() as receiver:
        receiver.answers = [status]
        pacs = {"name": "pacs", "host": "127.0.0.1", "port": receiver.port, "ae_title": "RECEIVER"}
        service = serve(destinations=[pacs], results={"kinds": ["secondary-capture"]})
        service.start()
        send(service.port, [chest("busy")])
        wait_for(lambda: service.events("delivered"), 60)
        service.stop()
    about = [line for line in lines(service) if line.get("destination") == "pacs" and f"0x{status:04X}" in str(line)]
    assert [line["level"] for line in about] == ["warning"]
