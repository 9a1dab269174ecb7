"""A deposit at Daraja: STK push, its callback and codes, and STK query (daraja.md §2, §3)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from domain.adapters.daraja.answers import ID_KINDS, parse_json_object, read_error
from domain.adapters.daraja.messages import (
    is_provider_id,
    judge_result,
    read_amounts,
    read_ids,
    read_items,
    read_receipt,
    read_result_code,
    require_mapping,
)
from domain.adapters.daraja.requests import (
    Api,
    RequestSettings,
    clean_free_text,
    message_address,
    password_fields,
)
from domain.adapters.daraja.result_codes import SUCCESS_CODE, Codes, Ending, code_text, find_failure
from domain.attempts import IdKind
from domain.evidence import InquiryOutcome
from domain.failures import FailureReason
from domain.operations import Operation
from domain.payment import Payment
from domain.report import Report, ReportedOutcome
from domain.values import DESCRIPTION_LENGTH_MAX

STK_PUSH = Api(Operation.STK_PUSH, "/mpesa/stkpush/v1/processrequest", "CheckoutRequestID")
STK_QUERY = Api(Operation.STK_QUERY, "/mpesa/stkpushquery/v1/query", "CheckoutRequestID")

_IDS = {"checkoutrequestid": IdKind.CHECKOUT_REQUEST, "merchantrequestid": IdKind.MERCHANT_REQUEST}

# This code means "still under processing" (daraja.md §3). The error 500.001.1001 may mean the same,
# but Daraja also sends it for payments that have ended.
_UNDER_WAY_CODE = "4999"

_F = FailureReason

# The result codes that end a deposit as failed (daraja.md §2.4). 1037 and 1019 are not safe to
# retry (rules.md §14). Late settlements were reported after 1037. 1036 is treated like 1037.
FAILURES: Codes = {
    "1": Ending(_F.INSUFFICIENT_FUNDS, safe_to_retry=True),
    "2": Ending(_F.LIMIT_EXCEEDED, safe_to_retry=True),
    "3": Ending(_F.LIMIT_EXCEEDED, safe_to_retry=True),
    "4": Ending(_F.LIMIT_EXCEEDED, safe_to_retry=True),
    "8": Ending(_F.LIMIT_EXCEEDED, safe_to_retry=True),
    "1019": Ending(_F.EXPIRED, safe_to_retry=False),
    "1031": Ending(_F.CANCELLED_BY_CUSTOMER, safe_to_retry=True),
    "1032": Ending(_F.CANCELLED_BY_CUSTOMER, safe_to_retry=True),
    "1036": Ending(_F.NO_RESPONSE, safe_to_retry=False),
    "1037": Ending(_F.NO_RESPONSE, safe_to_retry=False),
    "1101": Ending(_F.REJECTED_BY_PROVIDER, safe_to_retry=True),
    "1102": Ending(_F.REJECTED_BY_PROVIDER, safe_to_retry=True),
    # On a deposit, 2001 is about the customer's PIN, and not about our credential.
    "2001": Ending(_F.WRONG_PIN, safe_to_retry=True),
    "2006": Ending(_F.REJECTED_BY_PROVIDER, safe_to_retry=True),
    "2008": Ending(_F.REJECTED_BY_PROVIDER, safe_to_retry=True),
    "2026": Ending(_F.REJECTED_BY_PROVIDER, safe_to_retry=True),
    "2028": Ending(_F.CONFIGURATION, safe_to_retry=True),
    "2029": Ending(_F.CONFIGURATION, safe_to_retry=True),
    "2040": Ending(_F.REJECTED_BY_PROVIDER, safe_to_retry=True),
    "8006": Ending(_F.WRONG_PIN, safe_to_retry=True),
    "E3008": Ending(_F.REJECTED_BY_PROVIDER, safe_to_retry=True),
    "SFC_IC0003": Ending(_F.CONFIGURATION, safe_to_retry=True),
    "SFC_J_C0003": Ending(_F.CONFIGURATION, safe_to_retry=True),
}


def request_body(
    payment: Payment, settings: RequestSettings, _credential: str, now: datetime
) -> Mapping[str, Any]:
    """Return the request body of STK push (daraja.md §2.1)."""
    return {
        **password_fields(settings, now),
        "TransactionType": "CustomerBuyGoodsOnline" if settings.till else "CustomerPayBillOnline",
        "Amount": str(payment.request.amount_kes),
        "PartyA": payment.request.phone_number,
        "PartyB": settings.till or settings.shortcode,
        "PhoneNumber": payment.request.phone_number,
        "CallBackURL": message_address(payment, settings, payment.rules.result_operation),
        "AccountReference": payment.request.account_reference,
        # Daraja refuses a request without a description as "Invalid Remarks" (daraja.md §2.1).
        "TransactionDesc": clean_free_text(payment.request.description, 1, DESCRIPTION_LENGTH_MAX),
    }


def read_result(message: Any) -> Report:
    """Read an STK callback (daraja.md §2.3). Raises UnexpectedShape."""
    callback = require_mapping(
        require_mapping(require_mapping(message).get("Body")).get("stkCallback")
    )
    items = read_items(callback.get("CallbackMetadata"), "Item", "Name")
    return judge_result(
        read_result_code(callback),
        FAILURES,
        read_ids(callback, _IDS),
        read_amounts(items),
        receipt=read_receipt(items.get("mpesareceiptnumber", [])),
    )


def stk_query_body(
    checkout_request_id: str, settings: RequestSettings, now: datetime
) -> Mapping[str, Any]:
    """Return the request body of an STK query about a deposit (daraja.md §3)."""
    return {**password_fields(settings, now), "CheckoutRequestID": checkout_request_id}


def read_query_answer(status: int, body: bytes, checkout_request_id: str) -> Report:
    """Read an answer to STK query (daraja.md §3).

    If Daraja refuses the query, that is no evidence about the payment. Raises TokenRefused,
    ProductRefused and Throttled.
    """
    message = parse_json_object(body)
    if message is not None and 200 <= status < 300 and "errorCode" not in message:
        return _read_query_result(message, checkout_request_id)
    code, text = read_error(status, body, message)
    lower_text = text.lower()
    if (
        code == "500.001.1001"
        and "wrong credentials" not in lower_text
        and "merchant" not in lower_text
    ):
        return Report(
            outcome=ReportedOutcome.UNDECIDED, code=code, inquiry_outcome=InquiryOutcome.VAGUE
        )
    # Daraja calls the CheckoutRequestID invalid if it does not know the id, but also if the id is
    # too new (daraja.md §3). If Daraja calls another field invalid, our own query was wrong.
    is_about_id = code == "400.002.02" and "checkoutrequestid" in lower_text
    inquiry_outcome = InquiryOutcome.NO_RESULT if is_about_id else InquiryOutcome.NO_ANSWER
    return Report(outcome=ReportedOutcome.UNDECIDED, code=code, inquiry_outcome=inquiry_outcome)


def _read_query_result(message: Mapping[str, Any], checkout_request_id: str) -> Report:
    code = code_text(message.get("ResultCode"))
    ids = {
        ID_KINDS[name]: message[name] for name in ID_KINDS if message.get(name) not in (None, "")
    }
    has_matching_ids = ids.get(IdKind.CHECKOUT_REQUEST, checkout_request_id) == checkout_request_id
    has_matching_ids = has_matching_ids and all(is_provider_id(value) for value in ids.values())
    if (
        code is None
        or not has_matching_ids
        or code_text(message.get("ResponseCode")) != SUCCESS_CODE
    ):
        return Report(
            outcome=ReportedOutcome.UNDECIDED, code=code, inquiry_outcome=InquiryOutcome.NO_ANSWER
        )
    target_ids = frozenset(ids.items())
    if code == SUCCESS_CODE:
        return Report(
            outcome=ReportedOutcome.SUCCESS,
            code=code,
            ids=target_ids,
            inquiry_outcome=InquiryOutcome.PAID,
        )
    failure = find_failure(FAILURES, code)
    if failure is not None:
        return Report(
            outcome=ReportedOutcome.FAILURE,
            code=code,
            failure=failure,
            ids=target_ids,
            inquiry_outcome=InquiryOutcome.FAILED,
        )
    inquiry_outcome = (
        InquiryOutcome.UNDER_WAY if code == _UNDER_WAY_CODE else InquiryOutcome.NO_RESULT
    )
    return Report(
        outcome=ReportedOutcome.UNDECIDED,
        code=code,
        ids=target_ids,
        inquiry_outcome=inquiry_outcome,
    )
