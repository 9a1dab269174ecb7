"""What the metrics of the processes show about payments, Daraja and events."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest

from tests.spec.conftest import a_system
from tests.spec.receiving import LOCAL, receiving, registered
from tests.spec.requesting import cancel
from tests.spec.system import System
from tests.stack.ports import release_port, reserve_port


@pytest.fixture(scope="module")
async def worker_port() -> AsyncIterator[int]:
    port = reserve_port()
    yield port
    release_port(port)


@pytest.fixture
async def system(worker_port: int) -> AsyncIterator[System]:
    worker: dict[str, str | None] = {"WORKER_METRICS_PORT": str(worker_port)}
    # After "system busy", a slow machine may leave no time for a second try in the same claim.
    env: dict[str, str | None] = {"INQUIRY_FIRST_AFTER_SECONDS": "2"}
    async with a_system(env=env, process_env={"worker": worker}) as system:
        yield system


async def _series(system: System, url: str) -> dict[str, float]:
    async with system.http.get(f"{url}/metrics") as answer:
        text = await answer.text()
    lines = [line.rpartition(" ") for line in text.splitlines() if line[0] != "#"]
    return {name: float(value) for name, _, value in lines}


async def test_requests_to_daraja_are_counted_by_operation_and_outcome(
    system: System, worker_port: int
) -> None:
    """Each try counts, with its duration. A refused try is no acknowledgement."""
    url = f"http://127.0.0.1:{worker_port}"
    before = await _series(system, url)  # of tests that used this process
    await system.scenario("system_busy", api="b2c", times=1)
    paid = [await system.deposit(), await system.deposit(), await system.withdrawal()]
    await system.wait_until_paid(paid)
    shown = {
        name: value - before.get(name, 0) for name, value in (await _series(system, url)).items()
    }
    name = "mkwanja_daraja_requests_total"
    assert shown[f'{name}{{operation="stk_push",outcome="acknowledged"}}'] == 2
    assert shown[f'{name}{{operation="b2c",outcome="acknowledged"}}'] == 1
    assert shown[f'{name}{{operation="b2c",outcome="Resendable"}}'] == 1
    durations = "mkwanja_daraja_request_duration_seconds_count"
    assert shown[f'{durations}{{operation="b2c"}}'] == 2
    assert shown['mkwanja_limiter_turns_total{class="pushes",result="granted"}'] >= 2
    assert shown['mkwanja_limiter_turns_total{class="payouts",result="granted"}'] >= 2


async def test_requests_are_counted_by_route_and_status(system: System) -> None:
    """A path or a method that no route has makes no series of its own."""
    before = await _series(system, system.stack.web_url)  # of tests that used this process
    payment_id = await system.deposit()
    (await system.user.get("/v1/payments/not-an-id")).expect(404)
    for method, status in (("BREW", 405), ("PROPFIND", 404), ("GET", 404)):
        async with system.http.request(method, f"{system.stack.web_url}/0711000111") as answer:
            assert answer.status == status
    await system.payment(payment_id)
    shown = await _series(system, system.stack.web_url)

    def count(method: str, route: str, status: int) -> float:
        name = f'mkwanja_requests_total{{method="{method}",route="{route}",status="{status}"}}'
        return shown[name] - before.get(name, 0)

    assert count("POST", "/v1/deposits", 202) == 1
    assert count("GET", "/v1/payments/{payment_id}", 200) == 1
    assert count("GET", "/v1/payments/{payment_id}", 404) == 1
    assert count("any", "unknown", 404) == 2
    name = 'mkwanja_request_duration_seconds_count{method="POST",route="/v1/deposits"}'
    assert shown[name] - before.get(name, 0) == 1
    assert not [name for name in shown if re.search("0711000111|PROPFIND|BREW", name)]


@pytest.mark.whole
async def test_the_lag_of_webhooks_grows_while_no_worker_sends_them() -> None:
    """An event that an endpoint already has does not count, and neither does one of before it."""
    async with (
        a_system(env=LOCAL, processes=("web", "callbacks")) as system,
        receiving() as receiver,
    ):
        await _make_cancelled(system)

        async def lag_seconds() -> float:
            return (await _series(system, system.stack.web_url))["mkwanja_webhook_lag_seconds"]

        async with registered(system, receiver):
            assert await lag_seconds() == 0
            payment_id = await _make_cancelled(system)
            await system.eventually(lag_seconds)
            await system.stack.start_process("worker")
            await system.eventually(lambda: receiver.events([payment_id]))
            await system.eventually(lag_seconds, lambda seconds: seconds == 0)


async def _make_cancelled(system: System) -> str:
    """A withdrawal that its caller cancelled, which is an event without any worker."""
    payment_id = await system.withdrawal()
    (await cancel(system, payment_id)).expect(200)
    unlisted = "SELECT count(*) AS count FROM mkwanja.unlisted_events"
    await system.eventually(lambda: system.rows(unlisted), lambda rows: rows[0]["count"] == 0)
    return payment_id
