"""Transaction Status results as Daraja sends them (daraja.md §6.1).

A test changes one field by an argument.
"""

from __future__ import annotations

from typing import Any

from tests.unit.daraja_messages import ABSENT, as_items, without_absent

TARGET = "0199a0b1-c2d3-7e4f-8a5b-6c7d8e9f0a1b"
PARAMETERS: dict[str, Any] = {
    "DebitPartyName": "600988 - SHOP LTD",
    "CreditPartyName": "254711000111 - JANE DOE",
    "OriginatorConversationID": TARGET,
    "ConversationID": "AG_20260301_2010",
    "InitiatedTime": 20260301102021,
    "FinalisedTime": 20260301102031,
    "DebitAccountType": "Utility Account",
    "DebitPartyCharges": "Fee For B2C Payment|KES|22.40",
    "TransactionReason": ABSENT,
    "ReasonType": "Business Payment to Customer via API",
    "TransactionStatus": "Completed",
    "Amount": 1500,
    "ReceiptNo": "UC17KX20PM",
}


def parameters(**changes: Any) -> list[dict[str, Any]]:
    """The parameters of a completed payout with `changes`. ABSENT removes a parameter."""
    values = {name: value for name, value in PARAMETERS.items() if name not in changes}
    return as_items(values | without_absent(changes), "Key")


def status(code: Any = 0, items: Any = None, **fields: Any) -> dict[str, Any]:
    """A result. Its envelope has the inquiry's ids, and its parameters have the payment's ids."""
    items = parameters() if items is None else items
    result = {
        "ResultType": 0,
        "ResultCode": code,
        "ResultDesc": "The service request is processed successfully.",
        "OriginatorConversationID": "inquiry-1",
        "ConversationID": "AG_inquiry_1",
        "TransactionID": "UC10000000",
        "ResultParameters": ABSENT if items is ABSENT else {"ResultParameter": items},
        "ReferenceData": {"ReferenceItem": {"Key": "Occasion"}},
    }
    return {"Result": without_absent(result | fields)}
