"""A Pochi payment at Daraja: B2Pochi and its result, both shaped like B2C's (daraja.md §5)."""

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
from domain.values import REMARKS_LENGTH

B2POCHI = Api(Operation.B2POCHI, "/mpesa/b2pochi/v1/paymentrequest", "ConversationID")

FAILURES = PAYOUT_FAILURES


def request_body(
    payment: Payment, settings: RequestSettings, credential: str, _now: datetime
) -> Mapping[str, Any]:
    """Return the request body of B2Pochi (daraja.md §5)."""
    return {
        # Every send of a payment has the payment's id.
        "OriginatorConversationID": str(payment.id),
        "InitiatorName": settings.initiator_name,
        "SecurityCredential": credential,
        "CommandID": "BusinessPayToPochi",
        "Amount": str(payment.request.amount_kes),
        "PartyA": settings.payout_shortcode,
        "PartyB": payment.request.phone_number,
        "Remarks": clean_free_text(payment.request.remarks, *REMARKS_LENGTH),
        **result_addresses(payment, settings),
        "Occassion": "",
    }


def read_result(message: Any) -> Report:
    """Read a B2Pochi result (daraja.md §5). Raises UnexpectedShape."""
    return read_payout_result(message, FAILURES)
