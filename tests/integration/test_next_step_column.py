"""The column `next_step`, which the sweeper reads, always has the step that the domain computes.

Every statement that writes a payment is in a test here. The domain's own table of steps is in
`tests/unit/test_next_step.py`.
"""

from __future__ import annotations

from uuid import UUID

import pytest

from domain.attempts import Outcome
from domain.errors import Unreachable
from domain.evidence import InquiryOutcome
from domain.kinds import Kind
from domain.lifecycle.inquiry_changes import postponement_change
from domain.stages import Stage, Step
from tests.builders import TIMES
from tests.integration.conftest import Store, acknowledgement, new_id, success
from tests.integration.inquiries import (
    an_answer,
    askable_ids,
    claim_resend,
    in_doubt,
    make_due,
    record_query_answer,
    resendable,
    store_inquiry,
)


async def step_of(store: Store, payment_id: UUID) -> Step | None:
    """Return the due step, after a check that row and domain agree and that a step has a time."""
    payment = await store.payment(payment_id)
    (row,) = await store.rows(
        "SELECT next_step, next_step_at FROM mkwanja.payments WHERE id = $1", payment_id
    )
    assert row["next_step"] == payment.next_step
    assert (row["next_step"] is None) == (row["next_step_at"] is None)
    assert payment.stage.is_final or row["next_step"] is not None
    return payment.next_step


@pytest.mark.parametrize("kind", Kind)
async def test_the_row_has_the_due_step_from_acceptance_to_the_end(
    store: Store, kind: Kind
) -> None:
    """A change of the due time does not change the step."""
    inquiry_step = Step.QUERY if kind is Kind.DEPOSIT else Step.STATUS
    payment_id, attempt_id = await store.accepted(kind), new_id()
    assert await step_of(store, payment_id) is Step.SUBMIT
    await store.claiming.postpone(payment_id, TIMES.lease)
    assert await step_of(store, payment_id) is Step.SUBMIT
    assert await store.claim(payment_id, attempt_id) is not None
    assert await step_of(store, payment_id) is Step.END_LEASE
    await store.change(acknowledgement(payment_id, attempt_id, ids=askable_ids(kind)))
    assert await step_of(store, payment_id) is inquiry_step
    await make_due(store, payment_id)
    await store_inquiry(store, payment_id)
    await store.change(postponement_change(payment_id, TIMES.lease))
    await store.sweeping.fetch_due_steps(inquiry_step, limit=100, next_step_in=TIMES.lease)
    assert await step_of(store, payment_id) is inquiry_step
    await store.change(success(payment_id, kind))
    assert await step_of(store, payment_id) is None


@pytest.mark.parametrize("kind", [Kind.DEPOSIT, Kind.BILL_PAYMENT])
async def test_a_late_id_makes_an_inquiry_due(store: Store, kind: Kind) -> None:
    """The id arrives in the late answer to a send whose outcome was unknown."""
    payment_id = await in_doubt(store, kind, askable=False)
    assert await step_of(store, payment_id) is Step.WATCH
    [attempt] = (await store.payment(payment_id)).attempts
    await store.change(acknowledgement(payment_id, attempt.id, ids=askable_ids(kind)))
    assert await step_of(store, payment_id) in (Step.QUERY, Step.STATUS)


async def test_a_deposit_that_failed_by_silence_has_a_query_due_until_its_success(
    store: Store,
) -> None:
    payment_id = await in_doubt(store, Kind.DEPOSIT)
    await store.execute(
        "UPDATE mkwanja.attempts SET ended_at = now() - interval '1 day' WHERE payment_id = $1",
        payment_id,
    )
    for number in (1, 2, 3):
        assert (await store.payment(payment_id)).stage is Stage.IN_DOUBT
        await make_due(store, payment_id)
        await store_inquiry(store, payment_id)
        await record_query_answer(store, payment_id, number, an_answer(InquiryOutcome.NO_RESULT))
    payment = await store.payment(payment_id)
    assert (payment.stage, await step_of(store, payment_id)) == (Stage.FAILED, Step.QUERY)
    assert payment.next_step_at is not None
    assert payment.finalized_at is not None
    assert (payment.next_step_at - payment.finalized_at).total_seconds() == 600
    await store.change(success(payment_id))
    assert await step_of(store, payment_id) is None


async def test_a_resend_has_the_steps_of_a_first_send(store: Store) -> None:
    payment_id, attempt_id = await resendable(store), new_id()
    assert await step_of(store, payment_id) is Step.STATUS
    assert await claim_resend(store, payment_id, attempt_id) is not None
    assert await step_of(store, payment_id) is Step.END_LEASE
    await store.change(acknowledgement(payment_id, attempt_id, error=Unreachable()))
    assert await step_of(store, payment_id) is Step.STATUS
    outcomes = [attempt.outcome for attempt in (await store.payment(payment_id)).attempts]
    assert outcomes == [Outcome.UNKNOWN, Outcome.NOT_ACTED]
