"""Published events: one CloudEvent for each finalization, on both Redis channels.

The service publishes the stored bytes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from tests.builders import UNPUBLISHED_EVENTS
from tests.spec.listening import CHANNEL_OF_ALL, Listener, listening
from tests.spec.playing import Api, begin, stopped_payouts, wait_for_callbacks
from tests.spec.requesting import cancel
from tests.spec.system import System

_FIELDS = {
    "specversion", "id", "source", "type", "subject", "time", "sequence", "datacontenttype", "data",
}  # fmt: skip


async def _event_entries(system: System, payment_id: str) -> list[Any]:
    """The payment's history entries that have an event, oldest first."""
    sql = (
        "SELECT * FROM mkwanja.payment_history"
        " WHERE payment_id = $1::uuid AND event_type IS NOT NULL ORDER BY sequence"
    )
    return await system.rows(sql, payment_id)


async def _wait_for_events(
    system: System, listener: Listener, payment_id: str, *, count: int = 1
) -> None:
    """Wait until `count` events came on both channels and are recorded as published."""
    await system.eventually(
        lambda: len(listener.of(payment_id)), lambda received: received >= 2 * count
    )
    unpublished = f"{UNPUBLISHED_EVENTS} AND history.payment_id = $1::uuid"
    await system.eventually(lambda: system.rows(unpublished, payment_id), lambda rows: not rows)


@pytest.mark.parametrize(
    ("api", "scenario", "kind"),
    [
        ("stk", "approve", "succeeded"),
        ("b2b", "approve", "succeeded"),
        ("stk", "cancel", "failed"),
        ("stk", "merchant_missing", "failed"),
        ("b2c", "duplicate_callbacks", "succeeded"),
    ],
)
async def test_each_finalization_is_published_once(
    system: System, api: Api, scenario: str, kind: str
) -> None:
    """Each of the two channels gets one CloudEvent with the stored bytes."""
    async with listening(system) as listener:
        payment_id = await begin(system, api, scenario)
        payment = await system.settled(payment_id)
        await wait_for_callbacks(system)
        await _wait_for_events(system, listener, payment_id)
    [entry] = await _event_entries(system, payment_id)
    body = entry["event_body"].encode()
    assert sorted(listener.of(payment_id)) == [
        (CHANNEL_OF_ALL, body),
        (f"{CHANNEL_OF_ALL}:{payment_id}", body),
    ]
    [event] = listener.events(payment_id)
    assert set(event) == _FIELDS
    assert (event["specversion"], event["datacontenttype"]) == ("1.0", "application/json")
    assert (event["type"], event["subject"]) == (f"mkwanja.payment.{kind}", payment_id)
    assert (event["id"], event["sequence"]) == (str(entry["id"]), entry["sequence"])
    assert event["source"]
    assert datetime.fromisoformat(event["time"]).tzinfo is not None
    hidden = {"idempotency_key", "recipient_name", "provider_ids"}
    assert event["data"] == {name: value for name, value in payment.items() if name not in hidden}


async def test_a_cancellation_is_published_once(system: System) -> None:
    """The event says that the payment failed. Further cancellations publish nothing."""
    async with listening(system) as listener, stopped_payouts(system):
        payment_id = await system.withdrawal()
        for _ in range(3):
            (await cancel(system, payment_id)).expect(200)
        await _wait_for_events(system, listener, payment_id)
    [event] = listener.events(payment_id)
    assert (event["type"], event["data"]["failure"]["reason"]) == (
        "mkwanja.payment.failed",
        "cancelled_by_caller",
    )
