"""Daraja's messages as it sends them. A test changes one field by an argument."""

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
BILL_PARAMETERS: dict[str, Any] = {
    "DebitAccountBalance": "{Amount={CurrencyCode=KES, MinimumAmount=4200050, "
    "BasicAmount=42000.50}}",
    "Amount": "1800.00",
    "TransCompletedTime": "20260301103010",
    "DebitPartyCharges": "",
    "ReceiverPartyPublicName": "888880 - SUPPLIER LTD",
}


def as_items(values: dict[str, Any], key: str) -> list[dict[str, Any]]:
    return [
        {key: name} | ({} if value is ABSENT else {"Value": value})
        for name, value in values.items()
    ]


def stk(code: Any = 0, items: Any = None, **fields: Any) -> dict[str, Any]:
    """An STK callback (daraja.md §2.3)."""
    callback = {
        "MerchantRequestID": "4c1e-118203",
        "CheckoutRequestID": "ws_CO_0103",
        "ResultCode": code,
        "ResultDesc": "The service request is processed successfully.",
    }
    if items is not ABSENT:
        callback["CallbackMetadata"] = {
            "Item": as_items(STK_ITEMS, "Name") if items is None else items
        }
    callback.update(fields)
    return {
        "Body": {
            "stkCallback": {name: value for name, value in callback.items() if value is not ABSENT}
        }
    }


def payout(code: Any = 0, parameters: Any = None, **fields: Any) -> dict[str, Any]:
    """A B2C result (daraja.md §4.3)."""
    result = {
        "ResultType": 0,
        "ResultCode": code,
        "OriginatorConversationID": "payout-17",
        "ConversationID": "AG_20260301_2010",
        "TransactionID": "UC17KX20PM",
        "ReferenceData": {
            "ReferenceItem": {"Key": "QueueTimeoutURL", "Value": "https://internal.example/submit"}
        },
    }
    if parameters is not ABSENT:
        result["ResultParameters"] = {
            "ResultParameter": as_items(PAYOUT_PARAMETERS, "Key")
            if parameters is None
            else parameters
        }
    result.update(fields)
    return {"Result": {name: value for name, value in result.items() if value is not ABSENT}}


def read_message(operation: str, message: Any) -> Report:
    return read_report(
        operation, message if isinstance(message, bytes) else json.dumps(message).encode()
    )


PAYOUTS = kinds_that(lambda rules: rules.moves_money_out)
STK_ACK = {
    "MerchantRequestID": "4c1e-118203",
    "CheckoutRequestID": "ws_CO_0103",
    "ResponseCode": "0",
    "ResponseDescription": "Success. Request accepted for processing",
    "CustomerMessage": "Success. Request accepted for processing",
}

PAYOUT_ACK = {
    "ConversationID": "AG_2010",
    "OriginatorConversationID": "payout-17",
    "ResponseCode": "0",
    "ResponseDescription": "Accept the service request successfully.",
}

ACKS = {Kind.DEPOSIT: STK_ACK, **dict.fromkeys(PAYOUTS, PAYOUT_ACK)}


def answer_error(kind: Kind, status: int, answer: object) -> ProviderError | None:
    """The error as which an answer is read, or None for an acknowledgement."""
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    try:
        assert read_answer(PAGES[kind].api, kind, status, body)
    except ProviderError as error:
        return error
    return None


def envelope(code: object, text: object) -> dict[str, object]:
    return {"requestId": "4c1e-118203", "errorCode": code, "errorMessage": text}


def fault(
    code: str, text: str = "Spike arrest violation. Allowed rate : MessageRate{…}"
) -> dict[str, object]:
    return {"fault": {"faultstring": text, "detail": {"errorcode": code}}}
