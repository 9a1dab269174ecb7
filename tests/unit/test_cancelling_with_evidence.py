"""A payment that looks unsent is not called safe to retry if Daraja may have it.

A restored database lacks the send, and Daraja's messages come all the same.
"""

from __future__ import annotations

from typing import Any

import pytest

from domain.errors import TooLateToCancel
from domain.evidence import InquiryOutcome
from domain.failures import Failure, FailureReason
from domain.kinds import Kind
from domain.lifecycle.accept import operator_cancellation_change
from domain.lifecycle.submit import expiry_change
from domain.payment import Payment
from domain.stages import Stage
from tests.builders import NOW, PAYMENT_ID, a_payment, a_restored_payment, an_inquiry
from tests.decisions import entry_of, payment_of
from tests.unit.deciding import decide
from tests.unit.sending import World

CANCELLATION = operator_cancellation_change(PAYMENT_ID, reason="ticket 813", operator="wanjiku")
EXPIRY = expiry_change(PAYMENT_ID)

# What shows that Daraja has the payment: a message of any content, or an answer.
MESSAGE: dict[str, Any] = {"has_message": True}
ANSWER = an_inquiry(1, InquiryOutcome.UNDER_WAY)


def reviewed(**overrides: Any) -> Payment:
    """An unsent payment whose flag a person has cleared."""
    return a_payment(stage=Stage.ACCEPTED, needs_review=False, **overrides)


def test_an_unsent_payment_that_daraja_does_not_know_is_cancelled_as_safe_to_retry() -> None:
    failure = payment_of(decide(CANCELLATION, reviewed())).failure
    assert failure is not None
    assert (failure.reason, failure.safe_to_retry) == (FailureReason.CANCELLED_BY_CALLER, True)


def test_an_unsent_payment_that_daraja_knows_is_not_cancelled() -> None:
    with pytest.raises(TooLateToCancel):
        decide(CANCELLATION, reviewed(), **MESSAGE)
    with pytest.raises(TooLateToCancel):
        decide(CANCELLATION, reviewed(), ANSWER)


@pytest.mark.parametrize(
    ("payment", "text"),
    [
        (a_payment(stage=Stage.SUCCEEDED), "has ended: it succeeded."),
        (
            a_payment(stage=Stage.FAILED, failure=Failure(FailureReason.EXPIRED, True)),
            "has ended: it failed (expired).",
        ),
        (a_payment(stage=Stage.IN_DOUBT), "may have been sent already"),
    ],
)
def test_a_refused_cancellation_says_how_the_payment_has_ended(payment: Payment, text: str) -> None:
    with pytest.raises(TooLateToCancel) as refusal:
        decide(CANCELLATION, payment)
    assert text in refusal.value.message


def test_an_old_unsent_payment_that_daraja_knows_fails_as_not_safe_to_retry() -> None:
    """Unless a person must look at it first."""
    old = reviewed(expires_at=reviewed().created_at)
    for decision in (decide(EXPIRY, old, **MESSAGE), decide(EXPIRY, old, ANSWER)):
        failure = payment_of(decision).failure
        assert failure is not None
        assert failure.reason is FailureReason.NOT_SUBMITTED_IN_TIME
        assert not failure.safe_to_retry


@pytest.mark.parametrize("kind", Kind)
def test_an_old_payment_that_a_restore_flagged_waits_for_a_person(kind: Kind) -> None:
    """Neither a message nor an answer shows a send, because the restored database lacks both."""
    restored = a_restored_payment(kind=kind, expires_at=NOW)
    decision = decide(EXPIRY, restored)
    assert (decision.payment, entry_of(decision)) == (restored, None)
    with pytest.raises(TooLateToCancel):
        decide(CANCELLATION, restored)


async def test_a_job_from_before_a_restore_ends_no_payment_that_the_restore_flagged() -> None:
    """The job finds the payment too old to be sent."""
    restored = a_restored_payment(expires_at=NOW)
    world = World(restored)
    await world.submit_payment()
    assert (world.steps, world.payment) == ([], restored)
