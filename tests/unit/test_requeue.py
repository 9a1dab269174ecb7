"""`requeue` makes the planned step of a payment due now, and changes nothing else."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from domain.changes import Decided, HistoryEntry
from domain.errors import ResolutionRefused
from domain.kinds import Kind
from domain.lifecycle.requeue import requeue_change
from domain.payment import Payment
from domain.stages import Stage
from tests.builders import NOW, a_context, a_payment


def requeue(payment: Payment | None) -> Decided:
    change = requeue_change(a_payment().id, reason="ticket 9", operator="wanjiru")
    return change.decide(payment, a_context())


@pytest.mark.parametrize("stage", [Stage.ACCEPTED, Stage.AWAITING_RESULT, Stage.IN_DOUBT])
@pytest.mark.parametrize("kind", Kind)
def test_only_the_due_time_of_a_payment_changes(kind: Kind, stage: Stage) -> None:
    payment = a_payment(kind=kind, stage=stage, next_step_at=NOW + timedelta(hours=1))
    decided = requeue(payment)
    assert decided.payment == replace(payment, next_step_at=NOW)
    assert decided.effects == ()
    assert decided.ids == frozenset()
    assert decided.entry is not None
    assert decided.entry.name is HistoryEntry.REQUEUED
    assert decided.entry.detail == {
        "reason": "ticket 9",
        "operator": "wanjiru",
        "step": payment.next_step,
    }


def test_the_planned_inquiry_about_a_failed_payment_may_come_sooner() -> None:
    payment = a_payment(stage=Stage.FAILED, next_step_at=NOW + timedelta(hours=1))
    after = requeue(payment).payment
    assert after is not None
    assert after.next_step_at == NOW


@pytest.mark.parametrize(
    ("payment", "text"),
    [
        (None, "There is no such payment."),
        (a_payment(stage=Stage.SUCCEEDED), "no step is planned"),
        (a_payment(stage=Stage.SUBMITTING), "is sending the payment"),
        (a_payment(needs_review=True), "no worker sends it"),
    ],
)
def test_a_payment_whose_step_may_not_come_sooner_is_refused(payment: Any, text: str) -> None:
    with pytest.raises(ResolutionRefused) as refused:
        requeue(payment)
    assert text in refused.value.message
