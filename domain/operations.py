"""Daraja's operations, and what an answer says about an operation instead of a payment.

An operation is one of Daraja's APIs. Daraja can refuse a whole operation, because our app lacks the
product, because a firewall blocks it, or because our settings are wrong. Daraja would then refuse
every payment for the same reason, so the operation is held for all workers (rules.md §13).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from domain.errors import DuplicateSubmission, ProductRefused, ProviderError, Refused
from domain.failures import FailureReason
from domain.stages import Step
from domain.times import DEFAULT_TIMES


class Operation(StrEnum):
    """One of Daraja's APIs, by its name in our records."""

    STK_PUSH = "stk_push"
    B2C = "b2c"
    B2B = "b2b"
    B2POCHI = "b2pochi"
    STK_QUERY = "stk_query"
    STATUS = "status"


OPERATION_OF_INQUIRY_STEP = {Step.QUERY: Operation.STK_QUERY, Step.STATUS: Operation.STATUS}

# This many refusals of our own settings, one after the other, hold the operation.
SETTINGS_REFUSALS_MAX = 3


class OperationHealth(StrEnum):
    """What an answer says about its operation."""

    # Daraja accepted the request, or refused it because of its own content.
    WORKS = "works"
    # Daraja refused the operation, and would refuse it for any request.
    PRODUCT_REFUSED = "product_refused"
    # Daraja refused a field that comes from our settings.
    SETTINGS_REFUSED = "settings_refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationAnswer:
    """An answer that says something about an operation.

    `since` is when the send was claimed, or the inquiry was stored, by the database's clock. If
    that was before the hold last changed, the answer changes nothing. `cool_down` is the first
    cool-down, if this answer begins a hold.
    """

    operation: Operation
    health: OperationHealth
    since: datetime
    cool_down: timedelta = DEFAULT_TIMES.operation_cool_down
    code: str | None = None


def health_from_answer(error: ProviderError | None) -> OperationHealth | None:
    """What the answer to a send says about its operation.

    None if the answer says nothing about the operation, for example if Daraja was busy, throttled
    the request, or did not answer.
    """
    match error:
        case None | DuplicateSubmission():
            return OperationHealth.WORKS
        case ProductRefused():
            return OperationHealth.PRODUCT_REFUSED
        case Refused():
            is_ours = error.failure.reason is FailureReason.CONFIGURATION
            return OperationHealth.SETTINGS_REFUSED if is_ours else OperationHealth.WORKS
        case _:
            return None
