"""Transaction Status results as Daraja sends them (daraja.md §6.1).

A test changes one field by an argument.
"""

from __future__ import annotations

from typing import Any

from tests.unit.daraja_messages import ABSENT, as_items

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
    values = {
        name: value
        for name, value in {**PARAMETERS, **changes}.items()
        if name not in changes or value is not ABSENT
    }
    return as_items(values, "Key")


def status(code: Any = 0, items: Any = None, **fields: Any) -> dict[str, Any]:
    """A result. Its envelope has the ids of the inquiry, its parameters those of the payment."""
    result = {
        "ResultType": 0,
        "ResultCode": code,
        "ResultDesc": "The service request is processed successfully.",
        "OriginatorConversationID": "the-question-s-own",
        "ConversationID": "AG_the_question",
        "TransactionID": "UC10000000",
    }
    if items is not ABSENT:
        result["ResultParameters"] = {"ResultParameter": parameters() if items is None else items}
    result["ReferenceData"] = {"ReferenceItem": {"Key": "Occasion"}}
    result.update(fields)
    return {"Result": {name: value for name, value in result.items() if value is not ABSENT}}
