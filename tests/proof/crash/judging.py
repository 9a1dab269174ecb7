"""Judges a settled batch, by the endings of the table and by the judge of I1 to I7."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tests.builders import UNPUBLISHED_EVENTS
from tests.proof.crash.delivering import CallbackDeliverer
from tests.proof.crash.ordering import PaymentOrder
from tests.proof.crash.sites import Site
from tests.proof.crash.table import Ending, Kind
from tests.proof.invariants import judge
from tests.proof.soak.evidence import Witness, gather
from tests.proof.soak.listening import Listener
from tests.spec.system import System

_STATE = "SELECT * FROM mkwanja.payments WHERE id = ANY($1::uuid[])"
_UNREAD = """
SELECT payment_id FROM mkwanja.daraja_exchanges
WHERE payment_id = ANY($1::uuid[])
    AND attempt_id IS NOT NULL AND was_written AND http_status IS NULL
"""
_OWED = f"{UNPUBLISHED_EVENTS} AND history.payment_id = ANY($1::uuid[])"


async def wait_until_settled(
    system: System, orders: Sequence[PaymentOrder], deliverer: CallbackDeliverer
) -> None:
    """Wait until every payment has its ending, and no event or callback is pending."""
    await system.eventually(
        lambda: differences(system, orders), lambda found: not found, "the endings of the table"
    )
    await deliverer.wait_until_delivered()
    ids = [order.payment_id for order in orders]
    await system.eventually(
        lambda: system.rows(_OWED, ids), lambda rows: not rows, "every event recorded as published"
    )


async def differences(system: System, orders: Sequence[PaymentOrder]) -> list[str]:
    """One text for each payment that does not have its ending yet."""
    ids = [order.payment_id for order in orders]
    rows = {str(row["id"]): row for row in await system.rows(_STATE, ids)}
    unread = {str(row["payment_id"]) for row in await system.rows(_UNREAD, ids)}

    def expected(order: PaymentOrder) -> Ending:
        is_unread = order.payment_id in unread
        return (order.ending_if_unread if is_unread else None) or order.ending

    return [
        f"{order.label} ({order.payment_id}) is {row['stage']}, {row['failure_reason']},"
        f" review {row['needs_review']}"
        for order in orders
        if not _has_ended(expected(order), row := rows[order.payment_id])
    ]


def _has_ended(ending: Ending, row: Any) -> object:
    match ending:
        case Ending.PAID:
            return row["stage"] == "succeeded"
        case Ending.NO_RESULT | Ending.NO_RESULT_AND_NONE:
            is_safe = row["failure_safe_to_retry"]
            return row["failure_reason"] == "no_result_confirmed" and not is_safe
        case Ending.REVIEW | Ending.REVIEW_AND_NONE:
            return row["stage"] == "in_doubt" and row["needs_review"]


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
    for order in orders:
        is_moved = order.ending not in (Ending.NO_RESULT_AND_NONE, Ending.REVIEW_AND_NONE)
        assert len(await system.movements(order.payment_id)) == is_moved, order.label
        if order.kind is not Kind.WITHDRAWAL:  # Daraja would execute a second send
            assert await count_received_sends(system, order) == is_moved, order.label
    ids = [order.payment_id for order in orders]
    assert listener.listened_throughout
    witness = Witness(
        acceptances=[acceptance for order in orders for acceptance in order.acceptances],
        read_stages={each: [(await system.payment(each))["stage"]] for each in ids},
        received_events=listener.received_events,
        listened_throughout=True,
    )
    evidence = await gather(system, witness)
    with_copies = [*evidence.deliveries, *deliverer.accepted_copies]
    findings = judge(replace(evidence, deliveries=with_copies)).unexplained
    # The judge explains payments that wait for a person. The table says which payments those are,
    # so only unexplained findings are bad.
    bad = [finding.text() for finding in findings if finding.payment_id in {*ids, "unknown"}]
    assert not bad, "\n".join(bad)
    if site.name == "12 at 5":
        first_outcomes = dict(reversed(evidence.attempts))
        frozen = [order.payment_id for order in orders if not order.is_bystander]
        assert {first_outcomes[each] for each in frozen} == {"not_acted"}, (
            "the worker woke up past its deadline, and sent a payment"
        )
    if site.crash_point == 10:
        own = [entry for entry in evidence.history if entry.payment_id in ids and entry.event_body]
        assert all(entry.is_published for entry in own), "an event's publication was not recorded"
