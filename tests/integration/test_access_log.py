"""The log has a line for a slow answer, but not for each one of many."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import structlog
from aiohttp import web
from structlog.testing import capture_logs

from gateway.edge import answers
from gateway.edge.answers import SLOW_LINES_PER_SECOND, SlowLines
from gateway.edge.connections import Connections
from gateway.edge.serving import listen
from tests.clock import Clock
from tests.stack.ports import release_port, reserve_port


@pytest.fixture
def level() -> int:
    """The lowest level that is logged."""
    return logging.INFO


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, level: int) -> Clock:
    """Tells the access log the time. Every answer counts as slow."""
    clock = Clock()
    wrapper = structlog.make_filtering_bound_logger(level)
    monkeypatch.setattr(answers, "log", structlog.wrap_logger(None, wrapper_class=wrapper))
    monkeypatch.setattr(answers, "_slow_lines", SlowLines(clock))
    monkeypatch.setattr(answers, "SLOW_SECONDS", -1.0)
    return clock


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """The address of a server that answers 200, or the status in the path."""

    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=int(request.match_info["status"]))

    app = web.Application()
    app.router.add_get("/{status}", answer)
    port = reserve_port()
    async with listen(app, port, Connections()):
        yield f"http://127.0.0.1:{port}"
    release_port(port)


async def _lines(url: str, status: int, *, requests: int) -> list[Any]:
    """The lines of the log about this many requests, one after the other."""
    with capture_logs() as lines:
        async with aiohttp.ClientSession() as client:
            for _ in range(requests):
                async with client.get(f"{url}/{status}") as response:
                    assert response.status == status
    return [line for line in lines if line["event"] == "request"]


async def test_ten_slow_answers_a_second_have_a_line_and_the_next_line_counts_the_others(
    clock: Clock, url: str
) -> None:
    first = await _lines(url, 200, requests=SLOW_LINES_PER_SECOND + 15)
    assert [line["status"] for line in first] == [200] * SLOW_LINES_PER_SECOND
    assert all("slow_left_out" not in line for line in first)
    clock.now += 1
    later = await _lines(url, 200, requests=2)
    assert [line.get("slow_left_out") for line in later] == [15, None]


@pytest.mark.parametrize("level", [logging.DEBUG])
async def test_at_the_level_debug_each_slow_answer_has_a_line(clock: Clock, url: str) -> None:
    lines = await _lines(url, 200, requests=SLOW_LINES_PER_SECOND + 15)
    assert [line["log_level"] for line in lines] == ["info"] * (SLOW_LINES_PER_SECOND + 15)
    clock.now += 1
    [later] = await _lines(url, 200, requests=1)
    assert "slow_left_out" not in later


async def test_each_fault_of_ours_has_a_line_however_many_there_are(clock: Clock, url: str) -> None:
    await _lines(url, 200, requests=SLOW_LINES_PER_SECOND + 1)
    faults = await _lines(url, 500, requests=SLOW_LINES_PER_SECOND + 1)
    assert len(faults) == SLOW_LINES_PER_SECOND + 1
    assert all("slow_left_out" not in line for line in faults)
