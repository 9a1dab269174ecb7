"""The closed list of reasons why a payment fails, each with a sentence for people.

Pure. `safe_to_retry` is true only if Daraja, the service or an operator stated that no money moved
and none will move (rules.md §14).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FailureReason(StrEnum):
    """The closed list of reasons that callers may rely on (/openapi.json prints it)."""

    CANCELLED_BY_CUSTOMER = "cancelled_by_customer"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    WRONG_PIN = "wrong_pin"
    NO_RESPONSE = "no_response"
    EXPIRED = "expired"
    SUBSCRIBER_BUSY = "subscriber_busy"
    LIMIT_EXCEEDED = "limit_exceeded"
    INVALID_RECIPIENT = "invalid_recipient"
    REJECTED_BY_PROVIDER = "rejected_by_provider"
    NOT_SUBMITTED_IN_TIME = "not_submitted_in_time"
    NO_RESULT_CONFIRMED = "no_result_confirmed"
    CANCELLED_BY_CALLER = "cancelled_by_caller"
    REVERSED = "reversed"
    CONFIGURATION = "configuration"
    RESOLVED_BY_OPERATOR = "resolved_by_operator"


MESSAGES: dict[FailureReason, str] = {
    FailureReason.CANCELLED_BY_CUSTOMER: "The customer dismissed the M-PESA prompt.",
    FailureReason.INSUFFICIENT_FUNDS: "The paying account does not have enough money.",
    FailureReason.WRONG_PIN: "The M-PESA PIN was wrong, or is locked.",
    FailureReason.NO_RESPONSE: (
        "The customer's phone could not be reached, or the prompt was not answered."
    ),
    FailureReason.EXPIRED: "M-PESA did not complete the payment in time.",
    FailureReason.SUBSCRIBER_BUSY: (
        "Another M-PESA request is open on this phone. Try again in a minute."
    ),
    FailureReason.LIMIT_EXCEEDED: (
        "The amount breaks one of M-PESA's limits for this payer or recipient."
    ),
    FailureReason.INVALID_RECIPIENT: "The recipient cannot receive this payment.",
    FailureReason.REJECTED_BY_PROVIDER: "M-PESA declined the payment.",
    FailureReason.NOT_SUBMITTED_IN_TIME: (
        "The payment could not be sent to M-PESA in time, and was not sent."
    ),
    FailureReason.NO_RESULT_CONFIRMED: (
        "M-PESA gave no result, and its records show none. The result may still arrive."
    ),
    FailureReason.CANCELLED_BY_CALLER: (
        "The caller, or an operator for the caller, cancelled the payment before it was sent."
    ),
    FailureReason.REVERSED: "The payment was reversed.",
    FailureReason.RESOLVED_BY_OPERATOR: (
        "An operator found on M-PESA's own statement that no money moved."
    ),
    FailureReason.CONFIGURATION: (
        "M-PESA refused this service's own settings. Its operators have been alerted."
    ),
}


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a payment failed. `provider_code` is Daraja's own code, if it gave one."""

    reason: FailureReason
    safe_to_retry: bool
    provider_code: str | None = None

    @property
    def message(self) -> str:
        return MESSAGES[self.reason]
