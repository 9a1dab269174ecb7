"""The column `next_step`, which the sweeper reads, always has the step that the domain computes."""

from __future__ import annotations

from itertools import product
from uuid import UUID

import pytest

from domain.attempts import Outcome
from domain.errors import (
    DuplicateSubmission,
    OutcomeUnknown,
    ProviderError,
    Refused,
    Resendable,
    Throttled,
    Unreachable,
)
from domain.evidence import InquiryOutcome
from domain.kinds import RULES, Kind
from domain.lifecycle.accept import cancel
from domain.lifecycle.inquiry_changes import postponement_change, watch_change
from domain.lifecycle.reconcile import lease_expiry_change
from domain.lifecycle.resolve import OperatorDecision, Resolution, resolution_change
from domain.lifecycle.submit import expiry_change, resend_claim_change
from domain.report import Report, ReportedOutcome
from domain.stages import Stage, Step
from tests.builders import ACCOUNTS, TIMES
from tests.integration.conftest import (
    CALLER,
    INSUFFICIENT_FUNDS,
    Store,
    a_receipt,
    acknowledgement,
    failure,
    new_id,
    success,
)
from tests.integration.inquiries import (
    AT_ONCE,
    an_answer,
    askable_ids,
    in_doubt,
    make_due,
    record_callback,
    record_query_answer,
    resendable,
    store_inquiry,
)

UNDECIDED = Report(outcome=ReportedOutcome.UNDECIDED, code="17")
OPERATION = {kind: rules.result_operation for kind, rules in RULES.items()}


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


def inquiry_step(kind: Kind) -> Step:
    return Step.QUERY if kind is Kind.DEPOSIT else Step.STATUS


def step_without_id(kind: Kind) -> Step:
    return Step.STATUS if RULES[kind].inquiry_id_kind is None else Step.WATCH


@pytest.mark.parametrize("kind", Kind)
async def test_the_row_has_the_due_step_from_acceptance_to_the_end(
    store: Store, kind: Kind
) -> None:
    payment_id = await store.accepted(kind)
    assert await step_of(store, payment_id) is Step.SUBMIT
    attempt_id = new_id()
    assert await store.claim(payment_id, attempt_id) is not None
    assert await step_of(store, payment_id) is Step.END_LEASE
    await store.changing.change(acknowledgement(payment_id, attempt_id, ids=askable_ids(kind)))
    assert await step_of(store, payment_id) is inquiry_step(kind)
    await store.sweeping.fetch_due(inquiry_step(kind), limit=100, next_step_in=TIMES.lease)
    assert await step_of(store, payment_id) is inquiry_step(kind)
    await store.changing.change(success(payment_id, kind))
    assert await step_of(store, payment_id) is None


ANSWERS: list[tuple[ProviderError, Stage]] = [
    (Unreachable(), Stage.ACCEPTED),
    (Throttled(), Stage.ACCEPTED),
    (Refused(INSUFFICIENT_FUNDS), Stage.FAILED),
    (Resendable(), Stage.IN_DOUBT),
    (DuplicateSubmission(), Stage.IN_DOUBT),
    (OutcomeUnknown(), Stage.IN_DOUBT),
]


@pytest.mark.parametrize(
    ("kind", "answer"), list(product(Kind, ANSWERS)), ids=lambda value: str(value)[:24]
)
async def test_the_row_has_the_due_step_after_each_answer(
    store: Store, kind: Kind, answer: tuple[ProviderError, Stage]
) -> None:
    error, stage = answer
    payment_id, attempt_id = await store.claimed(kind)
    await store.changing.change(acknowledgement(payment_id, attempt_id, error=error))
    assert (await store.payment(payment_id)).stage is stage
    expected = {
        Stage.ACCEPTED: Step.SUBMIT,
        Stage.IN_DOUBT: step_without_id(kind),
        Stage.FAILED: None,
    }
    assert await step_of(store, payment_id) is expected[stage]


@pytest.mark.parametrize("kind", Kind)
async def test_a_late_id_makes_an_inquiry_due(store: Store, kind: Kind) -> None:
    """An answer after the end of the lease brings the id, or a callback that is not final."""
    by_answer, attempt_id = await store.claimed(kind)
    await store.execute("UPDATE mkwanja.payments SET lease_until = now() WHERE id = $1", by_answer)
    await store.changing.change(lease_expiry_change(by_answer, AT_ONCE))
    assert await step_of(store, by_answer) is step_without_id(kind)
    await store.changing.change(acknowledgement(by_answer, attempt_id, ids=askable_ids(kind)))
    assert await step_of(store, by_answer) is inquiry_step(kind)
    if RULES[kind].inquiry_id_kind is not None:
        by_callback = await in_doubt(store, kind, askable=False)
        report = Report(outcome=ReportedOutcome.UNDECIDED, code="17", ids=askable_ids(kind))
        await record_callback(store, by_callback, OPERATION[kind], report)
        assert await step_of(store, by_callback) is inquiry_step(kind)


@pytest.mark.parametrize("kind", Kind)
async def test_a_change_of_the_due_time_does_not_change_the_step(store: Store, kind: Kind) -> None:
    payment_id = await in_doubt(store, kind)
    await store_inquiry(store, payment_id)
    assert await step_of(store, payment_id) is inquiry_step(kind)
    await store.changing.change(postponement_change(payment_id, TIMES.lease))
    assert await step_of(store, payment_id) is inquiry_step(kind)
    await record_callback(store, payment_id, OPERATION[kind], UNDECIDED)
    assert await step_of(store, payment_id) is inquiry_step(kind)
    waiting = await store.accepted(kind)
    await store.claiming.postpone(waiting, TIMES.lease)
    assert await step_of(store, waiting) is Step.SUBMIT


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("decision", OperatorDecision)
async def test_a_decision_ends_the_step_and_a_review_does_not(
    store: Store, kind: Kind, decision: OperatorDecision
) -> None:
    payment_id = await in_doubt(store, kind, askable=False)
    await store.execute("UPDATE mkwanja.payments SET needs_review = true WHERE id = $1", payment_id)
    receipt = a_receipt() if decision is OperatorDecision.PAID else None
    resolved = Resolution(
        decision=decision, reason="the statement", operator="wanjiku", receipt=receipt
    )
    await store.changing.change(resolution_change(payment_id, resolved))
    expected = step_without_id(kind) if decision is OperatorDecision.REVIEWED else None
    assert await step_of(store, payment_id) is expected


async def test_a_final_payment_has_no_step_however_it_ended(store: Store) -> None:
    cancelled = await store.accepted()
    await cancel(store.changing, cancelled, caller=CALLER)
    failed, _ = await store.claimed()
    await store.changing.change(failure(failed))
    old = await store.accepted()
    await store.execute("UPDATE mkwanja.payments SET expires_at = now() WHERE id = $1", old)
    await store.changing.change(expiry_change(old))
    silent = await in_doubt(store, Kind.DEPOSIT, askable=False)
    await store.execute(
        "UPDATE mkwanja.attempts SET ended_at = now() - interval '1 day' WHERE payment_id = $1",
        silent,
    )
    await store.changing.change(watch_change(silent, AT_ONCE))
    for payment_id in (cancelled, failed, old, silent):
        assert (await store.payment(payment_id)).stage is Stage.FAILED
        assert await step_of(store, payment_id) is None


async def test_a_deposit_that_failed_by_silence_has_a_query_due_until_its_success(
    store: Store,
) -> None:
    payment_id = await in_doubt(store, Kind.DEPOSIT)
    await store.execute(
        "UPDATE mkwanja.attempts SET ended_at = now() - interval '1 day' WHERE payment_id = $1",
        payment_id,
    )
    for number in (1, 2, 3):
        await store_inquiry(store, payment_id)
        await record_query_answer(store, payment_id, number, an_answer(InquiryOutcome.NO_RESULT))
        if number < 3:
            await make_due(store, payment_id)
    payment = await store.payment(payment_id)
    assert (payment.stage, await step_of(store, payment_id)) == (Stage.FAILED, Step.QUERY)
    assert payment.next_step_at is not None
    assert payment.finalized_at is not None
    assert (payment.next_step_at - payment.finalized_at).total_seconds() == 600
    await store.changing.change(success(payment_id))
    assert await step_of(store, payment_id) is None


async def test_a_resend_has_the_steps_of_a_first_send(store: Store) -> None:
    payment_id, attempt_id = await resendable(store), new_id()
    assert await step_of(store, payment_id) is Step.STATUS
    await store.changing.change(resend_claim_change(payment_id, attempt_id, AT_ONCE, ACCOUNTS))
    assert await step_of(store, payment_id) is Step.END_LEASE
    await store.changing.change(acknowledgement(payment_id, attempt_id, error=Unreachable()))
    assert await step_of(store, payment_id) is Step.STATUS
    outcomes = [attempt.outcome for attempt in (await store.payment(payment_id)).attempts]
    assert outcomes == [Outcome.UNKNOWN, Outcome.NOT_ACTED]
