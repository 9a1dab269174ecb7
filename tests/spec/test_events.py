"""The bell: one CloudEvent a fact, on both channels, the same bytes as on record, until it is
known to be told.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import asyncpg
import pytest

from tests.spec.delivering import begin_awaited, deliver
from tests.spec.listening import CHANNEL_OF_ALL, Listener, listening
from tests.spec.playing import Api, begin, stopped_payouts, wait_for_callbacks
from tests.spec.requesting import cancel
from tests.spec.system import System

_FIELDS = {
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "sequence",
    "datacontenttype",
    "data",
}


async def facts(system: System, payment_id: str) -> list[Any]:
    """The facts on record that subscribers are told, oldest first."""
    sql = "SELECT * FROM mkwanja.payment_history WHERE payment_id = $1::uuid AND event_type IS NOT NULL"
    return await system.rows(f"{sql} ORDER BY sequence", payment_id)


async def _wait_for_both_channels(
    system: System, listener: Listener, payment_id: str, *, facts_received: int = 1
) -> None:
    """Waits until each fact came on both channels and is recorded as told."""
    await system.eventually(
        lambda: _value(len(listener.of(payment_id))), lambda count: count >= 2 * facts_received
    )
    owing = "SELECT id FROM mkwanja.payments WHERE id = $1::uuid AND event_due IS NOT NULL"
    await system.eventually(lambda: system.rows(owing, payment_id), lambda rows: not rows)


async def _value(value: Any) -> Any:
    return value


@pytest.mark.parametrize(
    ("api", "scenario", "kind"),
    [
        ("stk", "approve", "succeeded"),
        ("b2c", "approve", "succeeded"),
        ("b2b", "approve", "succeeded"),
        ("stk", "cancel", "failed"),
        ("stk", "merchant_missing", "failed"),
        ("stk", "duplicate_callbacks", "succeeded"),
    ],
)
async def test_each_finalization_is_published_once(
    system: System, api: Api, scenario: str, kind: str
) -> None:
    """A finalization is one CloudEvent, on both channels with the same bytes, which are those on
    record.
    """
    async with listening(system) as listener:
        payment_id = await begin(system, api, scenario)
        payment = await system.settled(payment_id)
        await wait_for_callbacks(system)
        await _wait_for_both_channels(system, listener, payment_id)
    [fact] = await facts(system, payment_id)
    body = fact["event_body"].encode()
    assert sorted(listener.of(payment_id)) == [
        (CHANNEL_OF_ALL, body),
        (f"{CHANNEL_OF_ALL}:{payment_id}", body),
    ]
    [event] = listener.events(payment_id)
    assert set(event) == _FIELDS
    assert (event["specversion"], event["datacontenttype"]) == ("1.0", "application/json")
    assert (event["type"], event["subject"]) == (f"mkwanja.payment.{kind}", payment_id)
    assert (event["id"], event["sequence"]) == (str(fact["id"]), fact["sequence"])
    assert event["source"]
    assert datetime.fromisoformat(event["time"]).tzinfo is not None
    hidden = {"idempotency_key", "recipient_name", "provider_ids"}
    assert event["data"] == {name: value for name, value in payment.items() if name not in hidden}


async def test_a_cancellation_is_published_once(system: System) -> None:
    """A payment cancelled by its caller is announced as failed, once, however often it is
    cancelled.
    """
    async with listening(system) as listener, stopped_payouts(system):
        payment_id = await system.withdrawal()
        for _ in range(3):
            (await cancel(system, payment_id)).expect(200)
        await _wait_for_both_channels(system, listener, payment_id)
    [event] = listener.events(payment_id)
    assert (event["type"], event["data"]["failure"]["reason"]) == (
        "mkwanja.payment.failed",
        "cancelled_by_caller",
    )


async def test_a_correction_is_published_as_a_second_event(system: System) -> None:
    """A success after a failure is a second fact with an id of its own, of type corrected, in
    sequence.
    """
    async with listening(system) as listener:
        payment_id = await begin(system, "b2c", "failure_then_success")
        await system.in_stage(payment_id, "succeeded")
        await _wait_for_both_channels(system, listener, payment_id, facts_received=2)
    events = sorted(listener.events(payment_id), key=lambda event: event["sequence"])
    assert [event["type"] for event in events] == [
        "mkwanja.payment.failed",
        "mkwanja.payment.corrected",
    ]
    assert [event["data"]["status"] for event in events] == ["failed", "success"]
    assert events[0]["id"] != events[1]["id"]
    assert [(item["id"], item["sequence"]) for item in events] == [
        (str(fact["id"]), fact["sequence"]) for fact in await facts(system, payment_id)
    ]


async def test_a_message_that_finalizes_nothing_publishes_no_event(system: System) -> None:
    """Flags, duplicates, contradictions and unreadable messages ring no bell."""
    async with listening(system) as listener:
        one = await begin_awaited(system)
        for body in (b"{", one.result(amount=one.amount + 1), one.result(receipt=...)):
            await deliver(system, one.url, body)
        assert listener.of(one.id) == []
        for receipt in ("UKN7BELL01", "UKN7BELL01", "UKN7BELL02"):
            await deliver(system, one.url, one.result(receipt=receipt))
        await _wait_for_both_channels(system, listener, one.id)
        later = await begin(system, "b2c", "approve")
        await system.settled(later)
        await _wait_for_both_channels(system, listener, later)
    assert [event["type"] for event in listener.events(one.id)] == ["mkwanja.payment.succeeded"]
    assert len(await facts(system, one.id)) == 1


async def test_the_sweeper_republishes_an_event_that_is_not_recorded_as_published(
    system: System,
) -> None:
    """What is not recorded as published the sweeper publishes: the same bytes, the same id, and
    then it is recorded.
    """
    async with listening(system) as listener:
        payment_id = await begin(system, "b2c", "approve")
        await system.settled(payment_id)
        await _wait_for_both_channels(system, listener, payment_id)
        first = listener.of(payment_id)
        await _forget_publication(system, payment_id)
        await _wait_for_both_channels(system, listener, payment_id, facts_received=2)
    assert sorted(listener.of(payment_id)) == sorted(first * 2)
    [fact] = await facts(system, payment_id)
    assert await system.rows(
        "SELECT * FROM mkwanja.event_publications WHERE history_id = $1", fact["id"]
    )


async def _forget_publication(system: System, payment_id: str) -> None:
    """As if the process had died between the commit that made the fact and the one that recorded
    its publication.
    """
    [fact] = await facts(system, payment_id)
    await system.execute("ALTER TABLE mkwanja.event_publications DISABLE TRIGGER is_insert_only")
    await system.execute("DELETE FROM mkwanja.event_publications WHERE history_id = $1", fact["id"])
    await system.execute("ALTER TABLE mkwanja.event_publications ENABLE TRIGGER is_insert_only")
    due = "UPDATE mkwanja.payments SET event_due = now() - interval '1 minute' WHERE id = $1"
    await system.execute(due, fact["payment_id"])


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE mkwanja.payment_history SET what = what",
        "UPDATE mkwanja.event_publications SET published_at = published_at",
        "UPDATE mkwanja.callbacks SET body = body",
        "UPDATE mkwanja.daraja_exchanges SET answer = answer",
        "DELETE FROM mkwanja.payment_history",
        "DELETE FROM mkwanja.event_publications",
        "DELETE FROM mkwanja.callbacks",
        "DELETE FROM mkwanja.daraja_exchanges",
        "TRUNCATE mkwanja.callbacks",
    ],
)
async def test_postgres_refuses_changes_of_insert_only_tables(system: System, change: str) -> None:
    """The record of what happened can be added to, and neither changed nor deleted."""
    with pytest.raises(asyncpg.RestrictViolationError, match="insert-only"):
        await system.execute(change)
