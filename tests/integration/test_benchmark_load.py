"""The load of `make bench`, against a small server that answers as each test needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from tests.benchmarks.load import Load, Plan, Seen
from tests.benchmarks.loading import payment_requests

pytestmark = pytest.mark.whole  # about the benchmark, and not about the service

_PAYMENT = b'{"id":"p-1","status":"pending"}'


@asynccontextmanager
async def _serving(
    answer: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_post("/v1/deposits", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def _load(port: int, **plan: object) -> Seen:
    requests = payment_requests(f"http://127.0.0.1:{port}", "/v1/deposits", ["token"])
    whole = {"requests": requests, "name": "0" * 12, "total": 1, "connections": 1, **plan}
    return await Load(Plan(host="127.0.0.1", port=port, **whole)).run()  # type: ignore[arg-type]


async def test_a_delay_of_the_open_loop_counts_from_the_planned_time() -> None:
    """The server holds the first answer. The delays show how long the requests behind it waited."""
    arrived = 0
    is_held = asyncio.Event()

    async def answer(_request: web.Request) -> web.Response:
        nonlocal arrived
        arrived += 1
        if arrived == 1:
            asyncio.get_running_loop().call_later(0.3, is_held.set)
        await is_held.wait()
        return web.Response(body=_PAYMENT, status=202)

    async with _serving(answer) as port:
        seen = await _load(port, total=4, per_second=100.0)
    waited_ms = [delay / 1e3 for delay in seen.delays_us]
    assert len(waited_ms) == 4
    # The planned times are 0, 10, 20 and 30 ms. No answer came before 300 ms.
    assert all(ms >= 290 - 10 * number for number, ms in enumerate(waited_ms))


async def test_an_obedient_client_repeats_the_same_request_when_told() -> None:
    requests: list[tuple[str, bytes, float]] = []

    async def answer(request: web.Request) -> web.Response:
        now = asyncio.get_running_loop().time()
        requests.append((request.headers["X-Idempotency-Key"], await request.read(), now))
        if len(requests) == 1:
            return web.Response(status=503, headers={"Retry-After": "1"})
        return web.Response(body=_PAYMENT, status=202)

    async with _serving(answer) as port:
        seen = await _load(port, is_obedient=True, has_ids=True)
    first, second = requests
    assert first[:2] == second[:2]
    assert second[2] - first[2] >= 1
    assert seen.statuses == {"503": 1, "202": 1}
    assert seen.accepted.keys() == {"p-1"}
    assert len(seen.delays_us) == 1
    assert seen.delays_us[0] >= 1_000_000


async def test_a_client_whose_connection_is_reset_repeats_the_request() -> None:
    keys: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        keys.append(request.headers["X-Idempotency-Key"])
        if len(keys) == 1:
            assert request.transport is not None
            request.transport.abort()
        return web.Response(body=_PAYMENT, status=202)

    async with _serving(answer) as port:
        seen = await _load(port)
    assert len(keys) == 2
    assert len(set(keys)) == 1
    assert (seen.resets, seen.unanswered, seen.statuses) == (1, 0, {"202": 1})


async def test_a_request_without_an_answer_is_reported() -> None:
    async def answer(_request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with _serving(answer) as port:
        seen = await _load(port, total=None, seconds=0.2)
    assert (seen.unanswered, seen.statuses, seen.delays_us) == (1, {}, [])
