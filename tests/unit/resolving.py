"""Makes decisions of an operator about a flagged payment, for tests."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from domain.changes import Decided
from domain.errors import ResolutionRefused
from domain.failures import FailureReason
from domain.kinds import Kind
from domain.lifecycle.resolve import OperatorDecision, Resolution, resolution_change
from domain.payment import Payment
from domain.stages import Stage
from tests.builders import NOW, PAYMENT_ID, RECEIPT, a_context, a_payment

DECIDED_BY: dict[str, Any] = {"operator": "wanjiku", "reason": "statement of 1 March, page 2"}
PAID = Resolution(decision=OperatorDecision.PAID, receipt=RECEIPT, **DECIDED_BY)
UNPAID = Resolution(decision=OperatorDecision.UNPAID, **DECIDED_BY)
REVIEWED = Resolution(decision=OperatorDecision.REVIEWED, **DECIDED_BY)
OPEN = (Stage.AWAITING_RESULT, Stage.IN_DOUBT)


def a_flagged_payment(stage: Stage = Stage.IN_DOUBT, **overrides: Any) -> Payment:
    long_ago = NOW - timedelta(hours=1)  # the result window is over
    fields = {
        "kind": Kind.BILL_PAYMENT,
        "stage": stage,
        "needs_review": True,
        "created_at": long_ago,
    }
    return a_payment(**{**fields, **overrides})


def decide_resolution(payment: Payment | None, decision: Resolution, **context: Any) -> Decided:
    return resolution_change(PAYMENT_ID, decision).decide(payment, a_context(**context))


def refusal(payment: Payment | None, decision: Resolution, **context: Any) -> str:
    with pytest.raises(ResolutionRefused) as caught:
        decide_resolution(payment, decision, **context)
    return caught.value.message


NEVER_SENT = (FailureReason.CANCELLED_BY_CALLER, FailureReason.NOT_SUBMITTED_IN_TIME)
