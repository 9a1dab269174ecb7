"""The whole system on Redis as hosts sell it.

Payments settle, and no process logs a problem with Redis.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.integration.redis_as_sold import (
    KINDS,
    shards,
    watched_by_sentinels,
)
from tests.spec.conftest import a_system
from tests.spec.playing import begin
from tests.spec.system import System
from tests.stack.servers import RedisServer


def _redis_events(system: System) -> dict[str, list[str]]:
    """The events about Redis in each process's log."""
    events_of: dict[str, list[str]] = {}
    for name, text in system.stack.logs().items():
        if name.partition(".")[0] in ("web", "callbacks", "worker"):
            lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
            events = [str(line["event"]) for line in lines]
            events_of[name] = [
                event for event in events if "redis" in event or "postponed" in event
            ]
    return events_of


async def _report(system: System, url: str | None = None) -> str:
    """The report about Redis in /readyz of the ingress, or of the process at `url`."""
    async with system.http.get(f"{url or system.stack.web_url}/readyz") as answer:
        return str((await answer.json())["redis"])


@pytest.mark.parametrize("kind", KINDS)
async def test_payments_work_on_each_kind_of_hosted_redis(kind: str, tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        sold = await stack.enter_async_context(KINDS[kind](tmp_path))
        env = {"REDIS_URL": sold.url}
        if sold.ca_file is not None:
            env["REDIS_CA_FILE"] = str(sold.ca_file)
        if sold.verify is not None:
            env["REDIS_TLS_VERIFY"] = sold.verify
        system = await stack.enter_async_context(a_system(env=env))
        pays = (system.deposit, system.withdrawal, system.bill_payment)
        payment_ids = await asyncio.gather(*(pay() for pay in pays * 3))
        for payment_id in payment_ids:
            assert (await system.settled(payment_id))["status"] == "success"
        for url in (system.stack.web_url, system.stack.callbacks_url):
            assert await _report(system, url) == "ok"
        # A process that does not check the certificate logs that once. Nothing else is logged.
        warnings = [] if sold.verify is None else ["redis_certificate_not_checked"]
        assert list(_redis_events(system).values()) == [warnings] * 3
        for text in system.stack.logs().values():
            assert "L1mited-Passw0rd" not in text


@pytest.mark.whole
async def test_payments_go_on_when_sentinels_replace_the_primary() -> None:
    """The primary dies while payments are accepted. Queued jobs are lost, but no payment is."""
    async with (
        watched_by_sentinels() as watched,
        a_system(env={"REDIS_URL": watched.url}, workers=2) as system,
    ):
        payment_ids: list[str] = []
        stop = asyncio.Event()

        async def pay() -> None:
            while not stop.is_set():
                payment_ids.append(await system.deposit())
                payment_ids.append(await system.withdrawal())
                # Dozens of payments a second are enough load. The test waits for each payment.
                await asyncio.sleep(0.25)

        async def count() -> int:
            return len(payment_ids)

        load = [asyncio.create_task(pay()) for _ in range(4)]
        await system.eventually(count, lambda paid: paid >= 20)
        await watched.primary.kill()
        so_far = len(payment_ids)
        await system.eventually(count, lambda paid: paid >= so_far + 20)

        await system.eventually(partial(_report, system), lambda text: text == "ok")
        stop.set()
        await asyncio.gather(*load)
        await system.wait_until_paid(payment_ids)
        assert all(system.stack.process(name).is_running for name in system.stack.names)


async def test_a_cluster_of_several_shards_stops_every_process_with_one_line() -> None:
    async with shards(2) as servers, a_system() as system:
        for name in ("web.2", "callbacks.2", "worker.2"):
            process = await system.stack.start_process(
                name, env={"REDIS_URL": servers[0].url}, wait=False
            )
            assert await process.wait(within_seconds=30) == 1
            (line,) = [line for line in process.log_text().splitlines() if "cannot start" in line]
            assert "REDIS_URL (is a cluster of 2 shards; " in line
            assert "Traceback" not in process.log_text()


async def test_a_full_redis_stops_no_payment() -> None:
    """Other applications fill Redis. Payments still settle, and /readyz reports the fault."""
    async with RedisServer(settings=["maxmemory-policy noeviction"]) as server:
        env = {"REDIS_URL": server.url, "INQUIRY_FIRST_AFTER_SECONDS": "1"}
        async with a_system(env=env, workers=2) as system, Redis.from_url(server.url) as admin:
            before = [await system.deposit() for _ in range(5)]
            await admin.config_set("maxmemory", 1)
            pays = (system.deposit, system.withdrawal, system.bill_payment)
            payment_ids = before + list(await asyncio.gather(*(pay() for pay in pays * 4)))
            payment_ids.append(await begin(system, "b2c", "lost_callback"))  # settled by an inquiry
            for payment_id in payment_ids:
                assert (await system.settled(payment_id))["status"] == "success"

            assert (await _report(system)).startswith("refuses: full: ")
            await admin.config_set("maxmemory", 0)
            await system.eventually(partial(_report, system), lambda text: text == "ok")
            later = await system.deposit()
            assert (await system.settled(later))["status"] == "success"
            await system.assert_money_agrees([*payment_ids, later])
