"""Daraja's answer to a send whose claim the database lost, in every stage of the payment."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from domain.attempts import Outcome
from domain.changes import Decided, HistoryEntry
from domain.errors import ProviderError, Unreachable
from domain.failures import Failure, FailureReason
from domain.kinds import RULES, Kind
from domain.payment import Payment
from domain.stages import Stage
from tests.builders import AN_ACCOUNT, NOW, a_payment, an_attempt, an_attempt_id
from tests.case_tables import for_each
from tests.decisions import entry_of, payment_of
from tests.unit.deciding import ACKNOWLEDGED, ANSWERS, UNKNOWN, decide_send_answer

IDS = frozenset({("conversation_id", "AG_1"), ("originator_conversation_id", "9d20-1")})
MAY_HAVE_ACTED = [(error, outcome) for error, _, outcome in ANSWERS if not outcome.is_accounted_for]
DID_NOT_ACT = [error for error, _, outcome in ANSWERS if outcome.is_accounted_for]


def payment_without_claim(
    kind: Kind, stage: Stage, *outcomes: Outcome | None, **fields: Any
) -> Payment:
    """A payment that lost attempt 1. Its stored attempts begin at number 2."""
    attempts = tuple(
        an_attempt(outcome, number=number) for number, outcome in enumerate(outcomes, 2)
    )
    return a_payment(kind=kind, stage=stage, attempts=attempts, **fields)


@for_each("kind", Kind)
@for_each(("error", "outcome"), MAY_HAVE_ACTED, ids=lambda value: type(value).__name__)
def test_an_answer_without_its_claim_is_evidence_of_a_send(
    kind: Kind, error: ProviderError | None, outcome: Outcome
) -> None:
    """The payment is in doubt and gets an inquiry. The attempt is stored with account and ids."""
    decision = decide_send_answer(payment_without_claim(kind, Stage.ACCEPTED), error, ids=IDS)
    after = payment_of(decision)
    assert (after.stage, after.needs_review) == (Stage.IN_DOUBT, False)
    assert after.next_step_at == NOW + timedelta(seconds=30)
    [attempt] = after.attempts
    assert (attempt.id, attempt.outcome, attempt.account) == (an_attempt_id(), outcome, AN_ACCOUNT)
    assert entry_of(decision) is HistoryEntry.CLAIM_LOST
    assert (decision.ids, decision.attempt_id) == (IDS, an_attempt_id())


@for_each("stage", [stage for stage in Stage if stage is not Stage.SUBMITTING])
@for_each("error", DID_NOT_ACT, ids=lambda error: type(error).__name__)
def test_an_answer_that_proves_no_effect_and_has_no_claim_changes_nothing(
    stage: Stage, error: ProviderError
) -> None:
    """The claim was never committed, as is usual after a COMMIT with an unknown outcome."""
    payment = a_payment(stage=stage, attempts=())
    assert decide_send_answer(payment, error) == Decided(payment=payment)


@for_each("kind", Kind)
@for_each(
    ("stage", "outcome"),
    [
        (Stage.SUBMITTING, None),
        (Stage.AWAITING_RESULT, ACKNOWLEDGED),
        (Stage.IN_DOUBT, UNKNOWN),
        (Stage.SUCCEEDED, ACKNOWLEDGED),
    ],
)
def test_an_acknowledgement_without_its_claim_beside_another_send_needs_a_person(
    kind: Kind, stage: Stage, outcome: Outcome | None
) -> None:
    """A withdrawal needs no person, because Daraja refuses a second send with the same id.

    For the other kinds, both sends may have acted.
    """
    payment = payment_without_claim(kind, stage, outcome)
    after = payment_of(decide_send_answer(payment, None, ids=IDS))
    assert (after.stage, after.lease_until) == (stage, payment.lease_until)
    assert (after.attempt_id, after.next_step_at) == (payment.attempt_id, payment.next_step_at)
    assert [attempt.outcome for attempt in after.attempts] == [outcome, ACKNOWLEDGED]
    assert after.needs_review is not RULES[kind].can_be_sent_again


@pytest.mark.parametrize("kind", Kind)
def test_an_acknowledgement_after_a_failure_without_a_send_needs_inquiries_and_a_person(
    kind: Kind,
) -> None:
    unsent = Failure(FailureReason.NOT_SUBMITTED_IN_TIME, True)
    payment = payment_without_claim(kind, Stage.FAILED, failure=unsent)
    after = payment_of(decide_send_answer(payment, None, ids=IDS))
    assert (after.stage, after.needs_review) == (Stage.FAILED, True)
    assert after.next_step_at == NOW + timedelta(seconds=30)


@pytest.mark.parametrize("kind", [Kind.DEPOSIT, Kind.BILL_PAYMENT])
def test_after_an_answer_without_its_claim_no_later_answer_permits_another_send(kind: Kind) -> None:
    """The newer attempt is proved unsent, but the attempt without a claim may have acted."""
    payment = payment_without_claim(kind, Stage.SUBMITTING, None)
    after_lost = payment_of(decide_send_answer(payment, None, ids=IDS))
    after = payment_of(decide_send_answer(after_lost, Unreachable(), number=2))
    assert after.stage is Stage.IN_DOUBT
