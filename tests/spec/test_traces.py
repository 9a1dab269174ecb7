"""One trace shows every hop of a payment, from the request to the webhook."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from tests.spec.collector import Collector, collecting
from tests.spec.conftest import a_system
from tests.spec.receiving import LOCAL, receiving, registered
from tests.spec.requesting import deposit_body, send_request
from tests.spec.system import PATIENCE_SECONDS, System

# Spans are sent at once, or only at the end of a process.
_AT_ONCE = "50"
_AT_THE_END = "3600000"


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    async with collecting() as collector:
        yield collector


def _env(collector: Collector, delay_ms: str) -> dict[str, str | None]:
    return {
        **LOCAL,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": delay_ms,
    }


async def test_one_trace_of_a_deposit_shows_every_hop(collector: Collector) -> None:
    """All hops are below the acceptance, which has a link to the caller's trace."""
    callers_trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    async with (
        a_system(env=_env(collector, _AT_ONCE)) as system,
        receiving() as receiver,
        registered(system, receiver),
    ):
        headers = [
            ("traceparent", f"00-{callers_trace}-00f067aa0ba902b7-01"),
            ("X-Idempotency-Key", "traced"),
            ("Content-Type", "application/json"),
        ]
        data = json.dumps(deposit_body(phone_number="0711000222"))
        request = send_request(system, "POST", "/v1/deposits", headers=headers, data=data)
        payment_id = (await request).expect(202).json()["id"]
        await system.wait_until_paid([payment_id])
        await system.eventually(lambda: receiver.events([payment_id]))
        expected = {
            ("mkwanja-web", "accept"),
            ("mkwanja-web", "wake-up"),
            ("mkwanja-worker", "job"),
            ("mkwanja-worker", "claim"),
            ("mkwanja-worker", "daraja stk_push"),
            ("mkwanja-worker", "commit acknowledged"),
            ("mkwanja-callbacks", "callback"),
            ("mkwanja-callbacks", "commit success_reported"),
            ("mkwanja-callbacks", "publish"),
            ("mkwanja-worker", "webhook"),
        }
        spans = await system.eventually(
            lambda: collector.trace(payment_id),
            lambda spans: {(span.service, span.name) for span in spans} >= expected,
        )
        first = next(span for span in spans if span.name == "accept")
        assert first.parent_id == ""
        assert first.links == (callers_trace,)
        assert {span.parent_id for span in spans if span is not first} == {first.span_id}
        send = next(span for span in spans if span.name == "daraja stk_push")
        assert send.attributes["mkwanja.outcome"] == "acknowledged"
        stages = {span.name: span.attributes.get("mkwanja.stage") for span in spans}
        assert stages["commit success_reported"] == "succeeded"
        assert not [span for span in collector.spans if "711000222" in str(span)]


@pytest.mark.whole
async def test_each_payment_has_a_trace_of_its_own(collector: Collector) -> None:
    """A repeated request is one more hop of the payment that it made.

    Several web processes send their spans too, although one parent forks them.
    """
    env = {**_env(collector, _AT_ONCE), "WEB_CONCURRENCY": "2"}
    async with a_system(env=env, processes=("web",)) as system:
        body, key = deposit_body(), "same-key"
        first = (await system.user.pay("/v1/deposits", body, key=key)).expect(202).json()["id"]
        other = await system.deposit()
        assert (await system.user.pay("/v1/deposits", body, key=key)).json()["id"] == first
        await system.eventually(
            lambda: {span.name for span in collector.trace(first)},
            lambda names: names == {"accept", "wake-up", "replay"},
        )
        names = await system.eventually(
            lambda: {span.name for span in collector.trace(other)},
            lambda names: names == {"accept", "wake-up"},
        )
        assert "replay" not in names


@pytest.mark.whole
async def test_sigterm_sends_the_spans_that_wait(collector: Collector) -> None:
    async with a_system(env=_env(collector, _AT_THE_END)) as system:
        payment_id = await system.deposit()
        await system.wait_until_paid([payment_id])
        assert collector.spans == []
        for process in ("web", "callbacks", "worker"):
            await _end(system, process)
        names = {(span.service, span.name) for span in collector.trace(payment_id)}
        assert names >= {
            ("mkwanja-web", "accept"),
            ("mkwanja-worker", "claim"),
            ("mkwanja-callbacks", "callback"),
        }


async def _end(system: System, process: str) -> None:
    assert await system.stack.process(process).terminate(within_seconds=20) == 0


@pytest.mark.parametrize("fault", ["hangs", "is away"])
@pytest.mark.whole
async def test_a_collector_that_fails_disturbs_no_payment_and_no_end(
    collector: Collector, fault: str
) -> None:
    """The spans are lost. Each process still ends within 20 seconds after SIGTERM."""
    collector.hangs = fault == "hangs"
    env = _env(collector, _AT_ONCE)
    if fault == "is away":
        env["OTEL_EXPORTER_OTLP_ENDPOINT"] = "http://127.0.0.1:9"
    async with a_system(env=env) as system:
        payment_ids = [await system.deposit(), await system.withdrawal()]
        await system.wait_until_paid(payment_ids)
        if collector.hangs:
            await system.eventually(lambda: collector.requests, patience_seconds=PATIENCE_SECONDS)
        for process in ("web", "callbacks", "worker"):
            await _end(system, process)
            # If the library notices the end while it waits for its next try, it logs that itself.
            log = system.stack.process(process).log_text()
            assert "spans_not_sent" in log or (fault == "is away" and '"event": "library"' in log)
    assert collector.spans == []
