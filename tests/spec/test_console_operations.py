"""The console's pages about the whole service: brakes, health and charts."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.spec.console import RECORDED_AS, Visitor, a_console_system, an_operator
from tests.spec.system import System

_REASON = "the float runs low"


@pytest.fixture(scope="module")
async def shared_system() -> AsyncIterator[System]:
    async with a_console_system() as system:
        yield system


@pytest.fixture
async def system(shared_system: System) -> AsyncIterator[System]:
    yield shared_system
    await shared_system.control("POST", "/switches", {"missing_products": []})
    await shared_system.release_brakes()


@pytest.fixture
async def operator(system: System) -> AsyncIterator[Visitor]:
    async with an_operator(system) as operator:
        yield operator


class TestBrakes:
    async def test_an_operator_stops_and_starts_payouts(
        self, system: System, operator: Visitor
    ) -> None:
        page = await operator.post("/console/brakes/payouts/stop", {"reason": _REASON})
        assert "Payouts are stopped." in page.text
        waiting = await system.withdrawal()
        await system.settled(await system.deposit())
        assert (await system.payment(waiting))["stage"] == "accepted"
        page = await operator.post("/console/brakes/payouts/start", {"reason": "float is full"})
        assert "Released." in page.text
        assert (await system.settled(waiting))["status"] == "success"
        for text in ("kill switch engaged", "kill switch released", _REASON, "float is full"):
            assert text in page.text
        rows = await system.rows(
            "SELECT is_engaged, reason, operator FROM mkwanja.brake_history ORDER BY changed_at"
        )
        assert rows[-2:] == [
            {"is_engaged": True, "reason": _REASON, "operator": RECORDED_AS},
            {"is_engaged": False, "reason": "float is full", "operator": RECORDED_AS},
        ]

    async def test_only_a_request_to_close_it_closes_the_breaker(
        self, system: System, operator: Visitor
    ) -> None:
        await system.execute(
            "UPDATE mkwanja.brakes SET is_engaged = true, reason = 'a test', changed_at = now()"
            " WHERE name IN ('breaker', 'kill_switch')"
        )
        await operator.post("/console/brakes/payouts/start", {"reason": _REASON})
        assert (await system.brake("breaker"))["is_engaged"]
        assert not (await system.brake("kill_switch"))["is_engaged"]
        form = {"reason": _REASON, "breaker": "yes"}
        await operator.post("/console/brakes/payouts/start", form)
        assert not (await system.brake("breaker"))["is_engaged"]

    async def test_an_operator_releases_a_held_operation(
        self, system: System, operator: Visitor
    ) -> None:
        await system.control("POST", "/switches", {"missing_products": ["b2c"]})
        waiting = await system.withdrawal()
        await system.wait_until_engaged("b2c")
        await system.execute(
            "UPDATE mkwanja.brakes SET probe_at = now() + interval '15 minutes' WHERE name = 'b2c'"
        )
        page = await operator.get("/console/brakes")
        assert "b2c held" in page.text
        assert "1 payment waiting." in page.text
        await system.control("POST", "/switches", {"missing_products": []})
        page = await operator.post(
            "/console/brakes/operations/b2c/release", {"reason": "the product is there now"}
        )
        assert "b2c free" in page.text
        assert (await system.settled(waiting))["status"] == "success"

    async def test_a_brake_does_not_change_without_a_reason(
        self, system: System, operator: Visitor
    ) -> None:
        page = await operator.post("/console/brakes/payouts/stop", {"reason": " "})
        assert page.status == 422
        assert "Reason: must be" in page.text
        assert not (await system.brake("kill_switch"))["is_engaged"]
        answer = await operator.post("/console/brakes/operations/odd/release", {"reason": _REASON})
        assert answer.status == 404


class TestHealth:
    async def test_the_page_shows_open_payments_brakes_queue_limits_and_traffic(
        self, system: System, operator: Visitor
    ) -> None:
        await system.settled(await system.deposit())
        page = await operator.get("/console/health")
        for text in (
            "No brake is engaged",
            "Full rate",
            "stk_push acknowledged",
            "Webhooks None waits",
        ):
            assert text in page.text, text
        await operator.post("/console/brakes/payouts/stop", {"reason": _REASON})
        await system.withdrawal()
        page = await operator.get("/console/health")
        assert "Stopped or held kill switch" in page.text
        assert "accepted 1" in page.text


class TestCharts:
    async def test_the_charts_show_volume_success_rate_and_times(
        self, system: System, operator: Visitor
    ) -> None:
        await system.settled(await system.deposit())
        await system.scenario("cancel", api="stk", times=1, phone_number="254712000701")
        await system.settled(await system.deposit(phone_number="0712000701"))
        for period in ("hour", "day", "week"):
            page = await operator.get(f"/console/charts?period={period}")
            assert page.status == 200
            assert page.source.count("<svg") == 3
            for text in ("Payments accepted", "Success rate", "Time from acceptance to the end"):
                assert text in page.text


class TestOutages:
    async def test_a_page_says_that_postgres_is_away_and_health_says_that_redis_is_away(
        self,
    ) -> None:
        """The sign-in needs neither."""
        async with a_console_system() as system, an_operator(system) as operator:
            await system.stack.redis.stop()
            page = await operator.get("/console/health")
            assert page.status == 200
            assert "Queue Redis is away" in page.text
            await system.stack.postgres.stop()
            async with Visitor(system) as other:
                page = await other.sign_in()
            assert page.status == 503
            assert "Not available right now" in page.text
