"""Messages in the form in which Daraja sends them. A test changes a field by an argument."""

from __future__ import annotations

import json
from typing import Any

from domain.adapters.daraja.answers import read_answer
from domain.adapters.daraja.pages import PAGES
from domain.adapters.daraja.reports import read_report
from domain.errors import ProviderError
from domain.kinds import Kind, kinds_that
from domain.report import Report

ABSENT = object()
CHECKOUT = "ws_CO_010320261015034711000111"
PAYOUTS = kinds_that(lambda rules: rules.moves_money_out)

# --- callbacks ------------------------------------------------------------------------------------

STK_ITEMS: dict[str, Any] = {
    "Amount": 250.0,
    "MpesaReceiptNumber": "UC14KD82QZ",
    "Balance": ABSENT,
    "TransactionDate": 20260301101521,
    "PhoneNumber": 254711000111,
}
PAYOUT_PARAMETERS: dict[str, Any] = {
    "TransactionAmount": 1500,
    "TransactionReceipt": "UC17KX20PM",
    "ReceiverPartyPublicName": "254711000111 - JANE DOE",
    "TransactionCompletedDateTime": "01.03.2026 10:20:31",
    "B2CUtilityAccountAvailableFunds": 812345.5,
    "B2CChargesPaidAccountAvailableFunds": -120.0,
}


def as_items(values: dict[str, Any], key: str) -> list[dict[str, Any]]:
    return [
        {key: name} | ({} if value is ABSENT else {"Value": value})
        for name, value in values.items()
    ]


def without_absent(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not ABSENT}


def stk(code: Any = 0, items: Any = None, **fields: Any) -> dict[str, Any]:
    """An STK callback (daraja.md §2.3)."""
    items = as_items(STK_ITEMS, "Name") if items is None else items
    callback = {
        "MerchantRequestID": "4c1e-118203",
        "CheckoutRequestID": CHECKOUT,
        "ResultCode": code,
        "ResultDesc": "The service request is processed successfully.",
        "CallbackMetadata": ABSENT if items is ABSENT else {"Item": items},
    }
    return {"Body": {"stkCallback": without_absent(callback | fields)}}


def payout(code: Any = 0, parameters: Any = None, **fields: Any) -> dict[str, Any]:
    """A B2C result (daraja.md §4.3)."""
    items = as_items(PAYOUT_PARAMETERS, "Key") if parameters is None else parameters
    result = {
        "ResultType": 0,
        "ResultCode": code,
        "OriginatorConversationID": "payout-17",
        "ConversationID": "AG_20260301_2010",
        "TransactionID": "UC17KX20PM",
        "ReferenceData": {
            "ReferenceItem": {"Key": "QueueTimeoutURL", "Value": "https://internal.example/submit"}
        },
        "ResultParameters": ABSENT if items is ABSENT else {"ResultParameter": items},
    }
    return {"Result": without_absent(result | fields)}


def as_body(message: object) -> bytes:
    return message if isinstance(message, bytes) else json.dumps(message).encode()


def read_message(operation: str, message: Any) -> Report:
    return read_report(operation, as_body(message))


# --- answers --------------------------------------------------------------------------------------

STK = {
    "MerchantRequestID": "4c1e-118203",
    "CheckoutRequestID": CHECKOUT,
    "ResponseCode": "0",
    "ResponseDescription": "Success. Request accepted for processing",
    "CustomerMessage": "Success. Request accepted for processing",
}
PAYOUT = {
    "ConversationID": "AG_20260301_2010",
    "OriginatorConversationID": "payout-17",
    "ResponseCode": "0",
    "ResponseDescription": "Accept the service request successfully.",
}
ACKNOWLEDGEMENTS = {Kind.DEPOSIT: STK, **dict.fromkeys(PAYOUTS, PAYOUT)}
QUERY: dict[str, Any] = {
    "ResponseCode": "0",
    "ResponseDescription": "The service request has been accepted successfully",
    "MerchantRequestID": "4c1e-118203",
    "CheckoutRequestID": CHECKOUT,
    "ResultCode": "0",
    "ResultDesc": "The service request is processed successfully.",
}
TOKEN = {"access_token": "c9SQxWWhmdVRlyh0zh8gZDTkubVF", "expires_in": "3599"}


def answer_error(kind: Kind, status: int, answer: object) -> ProviderError | None:
    """The error that the parser raises for an answer, or None for an acknowledgement."""
    try:
        assert read_answer(PAGES[kind].api, kind, status, as_body(answer))
    except ProviderError as error:
        return error
    return None


def envelope(code: object, text: object) -> dict[str, object]:
    return {"requestId": "4c1e-118203", "errorCode": code, "errorMessage": text}


def fault(
    code: str, text: str = "Spike arrest violation. Allowed rate : MessageRate{…}"
) -> dict[str, object]:
    return {"fault": {"faultstring": text, "detail": {"errorcode": code}}}
