"""Judges a settled batch: the endings of the table, and I1 to I7 by the judge of finished runs."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tests.proof.crash.delivering import CallbackDeliverer
from tests.proof.crash.ordering import PaymentOrder
from tests.proof.crash.sites import Site
from tests.proof.crash.table import Ending, Kind
from tests.proof.crash.waiting import wait_until
from tests.proof.invariants import judge
from tests.proof.soak.evidence import Witness, gather
from tests.proof.soak.listening import Listener
from tests.spec.playing import observe
from tests.spec.system import System

_STATE = "SELECT * FROM mkwanja.payments WHERE id = ANY($1::uuid[])"


async def wait_until_settled(
    system: System, orders: Sequence[PaymentOrder], deliverer: CallbackDeliverer
) -> None:
    """Wait until every payment has its ending, and no event or callback is pending."""
    await wait_until(
        lambda: differences(system, orders), lambda found: not found, "the ends of the table"
    )
    await deliverer.delivered()
    ids = [order.payment_id for order in orders]
    owed = "SELECT id FROM mkwanja.payments WHERE id = ANY($1::uuid[]) AND event_due IS NOT NULL"
    await wait_until(
        lambda: system.rows(owed, ids), lambda rows: not rows, "every event on record as published"
    )


async def differences(system: System, orders: Sequence[PaymentOrder]) -> list[str]:
    """The payments whose state is not, or not yet, their ending."""
    rows = {
        str(row["id"]): row
        for row in await system.rows(_STATE, [order.payment_id for order in orders])
    }
    return [
        f"{order.label} ({order.payment_id}) is {row['stage']}, {row['failure_reason']},"
        f" review {row['needs_review']}"
        for order in orders
        if not _has_ended(order.ending, row := rows[order.payment_id])
    ]


def _has_ended(ending: Ending, row: Any) -> bool:
    match ending:
        case Ending.PAID:
            return bool(row["stage"] == "succeeded")
        case Ending.NO_RESULT | Ending.NO_RESULT_AND_NONE:
            return bool(
                row["failure_reason"] == "no_result_confirmed" and not row["failure_safe_to_retry"]
            )
        case Ending.REVIEW | Ending.REVIEW_AND_NONE:
            return bool(row["stage"] == "in_doubt" and row["needs_review"])


async def count_received_sends(system: System, order: PaymentOrder) -> int:
    """How many sends of the payment Daraja accepted for processing.

    A send whose token was refused does not count (daraja.md §1).
    """
    requests = (await system.control("GET", "/requests?path=request"))["items"]
    return sum(
        order.payment_id in str(item["body"]) and item["scenario"] is not None for item in requests
    )


async def assert_batch_is_good(
    system: System,
    site: Site,
    orders: Sequence[PaymentOrder],
    deliverer: CallbackDeliverer,
    listener: Listener,
) -> None:
    """Check the endings, the movements, the sends and I1 to I7."""
    assert await differences(system, orders) == []
    ids = {order.payment_id for order in orders}
    seen = await observe(system, {order.payment_id: order.payment_id for order in orders})
    for order in orders:
        is_moved = order.ending not in (Ending.NO_RESULT_AND_NONE, Ending.REVIEW_AND_NONE)
        assert seen[order.payment_id].moved == is_moved, (order.label, seen[order.payment_id])
        if order.kind is not Kind.WITHDRAWAL:  # Daraja would execute these twice
            assert await count_received_sends(system, order) == is_moved, order.label
    witness = Witness(
        acceptances=[acceptance for order in orders for acceptance in order.acceptances],
        read_stages={
            order.payment_id: [(await system.payment(order.payment_id))["stage"]]
            for order in orders
        },
        received_events=[
            event for event in listener.received_events if json.loads(event.body)["subject"] in ids
        ],
    )
    evidence = await gather(system.stack, witness)
    bad = [
        finding
        for finding in judge(evidence).unexplained
        if finding.payment_id in ids | {"unknown"}
    ]
    # The judge explains payments that wait for a person. The table says which payments those are,
    # so only unexplained findings are bad.
    assert not bad, "\n".join(finding.text() for finding in bad)
    events = [
        entry
        for entry in evidence.history
        if entry.payment_id in ids and entry.event_body is not None
    ]
    received = {event.event_id for event in witness.received_events}
    assert {entry.id for entry in events} <= received, "an event was never received"
    if site.name == "12 at 5":
        first = dict(reversed(evidence.attempts))
        frozen = [order for order in orders if not order.is_bystander]
        assert {first[order.payment_id] for order in frozen} == {"not_acted"}, (
            "the worker woke up past its deadline, and sent"
        )
    if site.crash_point == 10:
        assert all(entry.publications == 1 for entry in events), (
            "each is recorded once, though published twice"
        )
    kept = Counter((item.payment_id, item.operation, item.sha256) for item in evidence.callbacks)
    for payment_id, operation, body in deliverer.stored:
        mark = (payment_id, operation, hashlib.sha256(body).hexdigest())
        assert kept[mark] > 0, f"a copy of {operation} was answered 200 and is not on record"
        kept[mark] -= 1
