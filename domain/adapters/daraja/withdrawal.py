"""A withdrawal at Daraja: B2C version 3 and its result (daraja.md §4)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from domain.adapters.daraja.messages import read_payout_result
from domain.adapters.daraja.requests import Api, RequestSettings, clean_free_text, result_addresses
from domain.adapters.daraja.result_codes import PAYOUT_FAILURES
from domain.operations import Operation
from domain.payment import Payment
from domain.report import Report
from domain.values import REMARKS_LENGTH, Purpose

B2C = Api(Operation.B2C, "/mpesa/b2c/v3/paymentrequest", "ConversationID")

FAILURES = PAYOUT_FAILURES

_COMMANDS = {
    Purpose.BUSINESS: "BusinessPayment",
    Purpose.SALARY: "SalaryPayment",
    Purpose.PROMOTION: "PromotionPayment",
}


def request_body(
    payment: Payment, settings: RequestSettings, credential: str, _now: datetime
) -> Mapping[str, Any]:
    """Return the request body of B2C (daraja.md §4.1)."""
    return {
        # Every send of a payment has the payment's id, because Daraja refuses the id's second use
        # (daraja.md §4.2).
        "OriginatorConversationID": str(payment.id),
        "InitiatorName": settings.initiator_name,
        "SecurityCredential": credential,
        "CommandID": _COMMANDS[payment.request.purpose or Purpose.BUSINESS],
        "Amount": str(payment.request.amount_kes),
        "PartyA": settings.payout_shortcode,
        "PartyB": payment.request.phone_number,
        "Remarks": clean_free_text(payment.request.remarks, *REMARKS_LENGTH),
        **result_addresses(payment, settings),
        "Occassion": "",  # v3 spells the name with two s (daraja.md §4.1)
    }


def read_result(message: Any) -> Report:
    """Read a B2C result (daraja.md §4.3). Raises UnexpectedShape."""
    return read_payout_result(message, FAILURES)
