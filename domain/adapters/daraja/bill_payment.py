"""A bill payment at Daraja: B2B to a paybill or a till, and its result (daraja.md §5)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from domain.adapters.daraja.messages import read_payout_result
from domain.adapters.daraja.requests import (
    SHORTCODE_TYPE,
    Api,
    RequestSettings,
    clean_free_text,
    result_addresses,
)
from domain.adapters.daraja.result_codes import PAYOUT_FAILURES
from domain.operations import Operation
from domain.payment import Payment
from domain.report import Report
from domain.values import REMARKS_LENGTH

B2B = Api(Operation.B2B, "/mpesa/b2b/v1/paymentrequest", "ConversationID")

FAILURES = PAYOUT_FAILURES

# Daraja's documentation names only 4, but production requires 2 for a till (daraja.md §5).
_TILL_TYPE = "2"


def request_body(
    payment: Payment, settings: RequestSettings, credential: str, _now: datetime
) -> Mapping[str, Any]:
    """Return the request body of B2B (daraja.md §5)."""
    return {
        "Initiator": settings.initiator_name,
        "SecurityCredential": credential,
        "CommandID": "BusinessPayBill" if payment.request.paybill else "BusinessBuyGoods",
        "SenderIdentifierType": SHORTCODE_TYPE,
        # Daraja spells the name like this (daraja.md §5).
        "RecieverIdentifierType": SHORTCODE_TYPE if payment.request.paybill else _TILL_TYPE,
        "Amount": str(payment.request.amount_kes),
        "PartyA": settings.payout_shortcode,
        "PartyB": payment.request.paybill or payment.request.till,
        # The reference is sent unchanged, because a changed one would pay another customer's
        # account.
        "AccountReference": payment.request.account_reference,
        "Remarks": clean_free_text(payment.request.remarks, *REMARKS_LENGTH),
        **result_addresses(payment, settings),
        "Occassion": "",
    }


def read_result(message: Any) -> Report:
    """Read a B2B result (daraja.md §5). Raises UnexpectedShape."""
    return read_payout_result(message, FAILURES)
