"""Each class of answer to a send, and the decision about an answer."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from domain.attempts import Outcome
from domain.changes import Decided
from domain.errors import (
    DeadlinePassed,
    Draining,
    DuplicateSubmission,
    OutcomeUnknown,
    ProductRefused,
    ProviderError,
    Refused,
    Resendable,
    Throttled,
    TokenRefused,
    Unreachable,
)
from domain.failures import Failure, FailureReason
from domain.lifecycle.record_answer import answer_change
from domain.payment import Payment
from domain.stages import FactName
from domain.times import DEFAULT_TIMES
from tests.builders import ACCOUNTS, PAYMENT_ID, a_context, an_open_attempt

NO = Failure(FailureReason.REJECTED_BY_PROVIDER, True, "400.002.02")
TIMES = replace(DEFAULT_TIMES, retry_after=timedelta(seconds=2))
ACKNOWLEDGED, UNKNOWN, NOT_ACTED = Outcome.ACKNOWLEDGED, Outcome.UNKNOWN, Outcome.NOT_ACTED

# Each class of answer, its fact in the stage table, and the attempt's outcome (rules.md §13).
ANSWERS: list[tuple[ProviderError | None, FactName, Outcome]] = [
    (None, FactName.ACKNOWLEDGED, ACKNOWLEDGED),
    (Unreachable(), FactName.NOT_ACTED, NOT_ACTED),
    (DeadlinePassed(), FactName.NOT_ACTED, NOT_ACTED),
    (Draining(), FactName.NOT_ACTED, NOT_ACTED),
    (Throttled(), FactName.NOT_ACTED, NOT_ACTED),
    (TokenRefused(), FactName.NOT_ACTED, NOT_ACTED),
    (ProductRefused(), FactName.NOT_ACTED, NOT_ACTED),
    (Refused(NO), FactName.REFUSED, Outcome.REFUSED),
    (Resendable(), FactName.OUTCOME_UNKNOWN, Outcome.RESENDABLE),
    (DuplicateSubmission(), FactName.OUTCOME_UNKNOWN, Outcome.DUPLICATE),
    (OutcomeUnknown(), FactName.OUTCOME_UNKNOWN, UNKNOWN),
    (ProviderError(), FactName.OUTCOME_UNKNOWN, UNKNOWN),  # a class that the code does not know yet
]


def decide_answer(
    payment: Payment, error: ProviderError | None, *, ids: Any = frozenset(), **context: Any
) -> Decided:
    return answer_change(PAYMENT_ID, an_open_attempt(), ids, error, TIMES, ACCOUNTS).decide(
        payment, a_context(**context)
    )
