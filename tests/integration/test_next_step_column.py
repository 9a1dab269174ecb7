"""`next_step` in the row is what the domain says is due, through every life: the sweeper reads
nothing else.
"""

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
    """What is due, by the row; which must be what the domain says, and have a time if there is
    one.
    """
    payment = await store.payment(payment_id)
    (row,) = await store.rows(
        "SELECT next_step, next_step_at FROM mkwanja.payments WHERE id = $1", payment_id
    )
    assert row["next_step"] == payment.next_step
    assert (row["next_step"] is None) == (row["next_step_at"] is None)
    assert payment.stage.is_final or row["next_step"] is not None
    return payment.next_step


def asks(kind: Kind) -> Step:
    return Step.QUERY if kind is Kind.DEPOSIT else Step.STATUS


def asks_without_id(kind: Kind) -> Step:
    return Step.STATUS if RULES[kind].inquiry_id_kind is None else Step.WATCH


@pytest.mark.parametrize("kind", Kind)
async def test_from_acceptance_to_the_end_the_row_says_what_is_due(
    store: Store, kind: Kind
) -> None:
    payment_id = await store.accepted(kind)
    assert await step_of(store, payment_id) is Step.SUBMIT
    attempt_id = new_id()
    assert (
        await store.claiming.claim(payment_id, attempt_id, lease=TIMES.lease, account=None)
        is not None
    )
    assert await step_of(store, payment_id) is Step.END_LEASE
    await store.changing.change(acknowledgement(payment_id, attempt_id, ids=askable_ids(kind)))
    assert await step_of(store, payment_id) is asks(kind)
    await store.sweeping.fetch_due(asks(kind), limit=100, next_step_in=TIMES.lease)
    assert await step_of(store, payment_id) is asks(kind)
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
async def test_after_each_answer_the_row_says_what_is_due(
    store: Store, kind: Kind, answer: tuple[ProviderError, Stage]
) -> None:
    error, stage = answer
    payment_id, attempt_id = await store.claimed(kind)
    await store.changing.change(acknowledgement(payment_id, attempt_id, error=error))
    assert (await store.payment(payment_id)).stage is stage
    expected = {
        Stage.ACCEPTED: Step.SUBMIT,
        Stage.IN_DOUBT: asks_without_id(kind),
        Stage.FAILED: None,
    }
    assert await step_of(store, payment_id) is expected[stage]


@pytest.mark.parametrize("kind", Kind)
async def test_an_id_that_comes_late_opens_a_way_to_ask(store: Store, kind: Kind) -> None:
    """By the answer that came after its lease, or by a callback that says nothing final."""
    by_answer, attempt_id = await store.claimed(kind)
    await store.execute("UPDATE mkwanja.payments SET lease_until = now() WHERE id = $1", by_answer)
    await store.changing.change(lease_expiry_change(by_answer, AT_ONCE))
    assert await step_of(store, by_answer) is asks_without_id(kind)
    await store.changing.change(acknowledgement(by_answer, attempt_id, ids=askable_ids(kind)))
    assert await step_of(store, by_answer) is asks(kind)
    if RULES[kind].inquiry_id_kind is not None:
        by_callback = await in_doubt(store, kind, askable=False)
        report = Report(outcome=ReportedOutcome.UNDECIDED, code="17", ids=askable_ids(kind))
        await record_callback(store, by_callback, OPERATION[kind], report)
        assert await step_of(store, by_callback) is asks(kind)


@pytest.mark.parametrize("kind", Kind)
async def test_what_changes_only_the_time_leaves_the_step(store: Store, kind: Kind) -> None:
    payment_id = await in_doubt(store, kind)
    await store_inquiry(store, payment_id)
    assert await step_of(store, payment_id) is asks(kind)
    await store.changing.change(postponement_change(payment_id, TIMES.lease))
    assert await step_of(store, payment_id) is asks(kind)
    await record_callback(store, payment_id, OPERATION[kind], UNDECIDED)
    assert await step_of(store, payment_id) is asks(kind)
    waiting = await store.accepted(kind)
    await store.claiming.postpone(waiting, TIMES.lease)
    assert await step_of(store, waiting) is Step.SUBMIT


@pytest.mark.parametrize("kind", Kind)
@pytest.mark.parametrize("decision", OperatorDecision)
async def test_a_decided_payment_waits_for_nothing_and_a_reviewed_one_for_what_it_did(
    store: Store, kind: Kind, decision: OperatorDecision
) -> None:
    payment_id = await in_doubt(store, kind, askable=False)
    await store.execute("UPDATE mkwanja.payments SET needs_review = true WHERE id = $1", payment_id)
    receipt = a_receipt() if decision is OperatorDecision.PAID else None
    resolved = Resolution(
        decision=decision, reason="the statement", operator="wanjiku", receipt=receipt
    )
    await store.changing.change(resolution_change(payment_id, resolved))
    expected = asks_without_id(kind) if decision is OperatorDecision.REVIEWED else None
    assert await step_of(store, payment_id) is expected


async def test_every_way_to_an_end_leaves_no_step_behind(store: Store) -> None:
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


async def test_a_deposit_that_failed_for_silence_is_to_be_asked_about_until_it_is_found(
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


async def test_a_resend_ends_like_a_first_send(store: Store) -> None:
    payment_id, attempt_id = await resendable(store), new_id()
    assert await step_of(store, payment_id) is Step.STATUS
    await store.changing.change(resend_claim_change(payment_id, attempt_id, AT_ONCE, ACCOUNTS))
    assert await step_of(store, payment_id) is Step.END_LEASE
    await store.changing.change(acknowledgement(payment_id, attempt_id, error=Unreachable()))
    assert await step_of(store, payment_id) is Step.STATUS
    outcomes = [attempt.outcome for attempt in (await store.payment(payment_id)).attempts]
    assert outcomes == [Outcome.UNKNOWN, Outcome.NOT_ACTED]
