"""Inquiries and resends of a held operation wait. One of them may be the probe."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID

import pytest

from domain.adapters.postgres.brakes import Brakes
from domain.attempts import IdKind
from domain.evidence import Inquiry
from domain.kinds import RULES, Kind
from domain.lifecycle.inquiry_changes import InquiryAnswer, inquiry_answer_change, inquiry_change
from domain.operations import Operation, OperationHealth
from domain.report import Report, ReportedOutcome
from domain.stages import Step
from tests.builders import ACCOUNTS
from tests.decisions import inquiry_of, probed_operation_of
from tests.integration.conftest import Store, acknowledgement
from tests.integration.held import B2C, brake_row, end_cool_down, hold, is_engaged
from tests.integration.inquiries import AT_ONCE, claim_resend, count_due, make_due, resendable


async def test_a_resend_waits_for_a_held_operation_and_may_be_its_probe(
    fresh: Store, second_worker: Store
) -> None:
    waiting = [await resendable(fresh) for _ in range(6)]
    await hold(fresh)
    assert not any([await claim_resend(fresh, payment_id) for payment_id in waiting])
    await end_cool_down(fresh)
    stores = [fresh, second_worker] * 3
    won = await asyncio.gather(*map(claim_resend, stores, waiting))
    assert won.count(None) == 5
    assert (await brake_row(fresh))["probes"] == 1
    await hold(fresh, Kind.BILL_PAYMENT)
    await Brakes(fresh.database).set(B2C.value, is_engaged=False, reason="the product was added")
    assert [await claim_resend(fresh, payment_id) for payment_id in waiting].count(None) == 1


INQUIRIES = [
    (Kind.DEPOSIT, Operation.STK_QUERY, Step.QUERY),
    (Kind.WITHDRAWAL, Operation.STATUS, Step.STATUS),
]


async def due_for_inquiry(store: Store, kind: Kind) -> UUID:
    payment_id, attempt_id = await store.claimed(kind)
    ids = frozenset({(IdKind.CHECKOUT_REQUEST, f"ws_CO_{attempt_id.hex}")})
    await store.change(acknowledgement(payment_id, attempt_id, ids=ids))
    await make_due(store, payment_id)
    return payment_id


async def store_inquiry(
    store: Store, payment_id: UUID, *, is_probe: bool = False
) -> tuple[Inquiry | None, Operation | None]:
    result = await store.change(
        inquiry_change(payment_id, AT_ONCE, ACCOUNTS, is_breaker_probe=is_probe)
    )
    return inquiry_of(result.decided), probed_operation_of(result.decided)


async def record_health(
    store: Store, payment_id: UUID, number: int, health: OperationHealth | None
) -> None:
    report = Report(outcome=ReportedOutcome.UNDECIDED)
    change = inquiry_answer_change(
        payment_id,
        number,
        report,
        (),
        AT_ONCE,
        answer=InquiryAnswer(report, (), health, "401.002.01"),
    )
    await store.change(change)


@pytest.mark.parametrize(("kind", "operation", "step"), INQUIRIES)
async def test_a_refused_inquiry_holds_its_operation_until_a_probe_is_answered(
    fresh: Store, second_worker: Store, kind: Kind, operation: Operation, step: Step
) -> None:
    first, *waiting = [await due_for_inquiry(fresh, kind) for _ in range(6)]
    inquiry, _ = await store_inquiry(fresh, first)
    assert inquiry is not None
    await record_health(fresh, first, inquiry.number, OperationHealth.PRODUCT_REFUSED)
    assert await is_engaged(fresh, operation)
    assert await count_due(fresh, step) == 0
    assert await fresh.sweeping.fetch_due_steps(step, limit=9, next_step_in=timedelta(0)) == []
    assert await store_inquiry(fresh, waiting[0]) == (None, None)
    assert await store_inquiry(fresh, waiting[0], is_probe=True) == (None, None)
    await end_cool_down(fresh, operation)
    assert await count_due(fresh, step) == 1
    stores = [fresh, second_worker, fresh, second_worker, fresh]
    won = await asyncio.gather(*map(store_inquiry, stores, waiting))
    [(probe, probed)] = [item for item in won if item[0] is not None]
    assert probe is not None
    assert probed is operation
    for health, expected in (
        (None, True),
        (OperationHealth.PRODUCT_REFUSED, True),
        (OperationHealth.WORKS, False),
    ):
        await record_health(fresh, waiting[won.index((probe, probed))], probe.number, health)
        assert await is_engaged(fresh, operation) is expected
    assert await count_due(fresh, step) > 1


@pytest.mark.parametrize(("kind", "operation", "step"), INQUIRIES)
async def test_held_inquiries_stop_no_send_and_held_sends_stop_no_inquiry(
    fresh: Store, kind: Kind, operation: Operation, step: Step
) -> None:
    payment_id = await due_for_inquiry(fresh, kind)
    await hold(fresh, kind)
    assert await count_due(fresh, step) == 1
    inquiry, probed = await store_inquiry(fresh, payment_id)
    assert (inquiry is not None, probed) == (True, None)
    await Brakes(fresh.database).set(RULES[kind].operation.value, is_engaged=False, reason="a test")
    assert inquiry is not None
    await record_health(fresh, payment_id, inquiry.number, OperationHealth.PRODUCT_REFUSED)
    assert await is_engaged(fresh, operation)
    assert await fresh.claim(await fresh.accepted(kind)) is not None
