"""What we ask Daraja, in its own field names and spellings (daraja.md §2.1, §4.1, §5).

Amounts are strings, as in the portal's own samples: a server that follows those refuses a JSON number.
"""

from __future__ import annotations

import base64
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from domain import callback_address
from domain.account import SendAccount
from domain.callback_address import RESULT_OPERATIONS, TIMEOUT_OPERATIONS, status_operation
from domain.operations import OPERATION_OF_KIND, Operation
from domain.payment import Payment
from domain.values import DEFAULT_TEXT, DESCRIPTION_LENGTH_MAX, NAIROBI, REMARKS_LENGTH, Kind, Purpose

_COMMANDS = {
    Purpose.BUSINESS: "BusinessPayment",
    Purpose.SALARY: "SalaryPayment",
    Purpose.PROMOTION: "PromotionPayment",
}

# Identifier types: a till is 2, a shortcode 4 (daraja.md §5: documents say only 4, production wants 2 for a till).
_SHORTCODE = "4"
_TILL = "2"

# Daraja lets a request with `@`, `#` or `&` in a text fail without a word (daraja.md §2.2).
_NOT_FREE_TEXT = re.compile(r"[^A-Za-z0-9.-]+")
_ALPHANUMERIC = re.compile(r"[A-Za-z0-9]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who we are to Daraja."""

    shortcode: str
    passkey: str
    till: str | None
    payout_shortcode: str
    initiator_name: str
    callback_base_url: str
    callback_secret: str


def as_sent_by(account: Account, sent_by: SendAccount | None) -> Account:
    """`account` with the short code of the account that sent a payment, to ask about that payment."""
    if sent_by is None:
        return account
    return replace(account, shortcode=sent_by.shortcode, payout_shortcode=sent_by.shortcode)


@dataclass(frozen=True, slots=True)
class Api:
    """One of Daraja's calls. `acknowledgement_id` names the id without which an acknowledgement is none."""

    name: str
    path: str
    acknowledgement_id: str


STK_PUSH = Api("stk_push", "/mpesa/stkpush/v1/processrequest", "CheckoutRequestID")
B2C = Api("b2c", "/mpesa/b2c/v3/paymentrequest", "ConversationID")
B2B = Api("b2b", "/mpesa/b2b/v1/paymentrequest", "ConversationID")
STK_QUERY = Api("stk_query", "/mpesa/stkpushquery/v1/query", "CheckoutRequestID")
STATUS = Api("status", "/mpesa/transactionstatus/v1/query", "ConversationID")

API_OF_OPERATION = {Operation(api.name): api for api in (STK_PUSH, B2C, B2B, STK_QUERY, STATUS)}
API_OF_KIND = {kind: API_OF_OPERATION[operation] for kind, operation in OPERATION_OF_KIND.items()}


def request_body(payment: Payment, account: Account, *, credential: str, now: datetime) -> Mapping[str, Any]:
    """The body that asks Daraja to make `payment`."""
    match payment.kind:
        case Kind.DEPOSIT:
            return _stk_push(payment, account, now)
        case Kind.WITHDRAWAL:
            return _b2c(payment, account, credential)
        case Kind.BILL_PAYMENT:
            return _b2b(payment, account, credential)


def _stk_push(payment: Payment, account: Account, now: datetime) -> Mapping[str, Any]:
    return {
        **_password(account, now),
        "TransactionType": "CustomerBuyGoodsOnline" if account.till else "CustomerPayBillOnline",
        "Amount": str(payment.amount_kes),
        "PartyA": payment.phone_number,
        "PartyB": account.till or account.shortcode,
        "PhoneNumber": payment.phone_number,
        "CallBackURL": _address(payment, account, RESULT_OPERATIONS[payment.kind]),
        "AccountReference": payment.account_reference,
        "TransactionDesc": free_text(
            payment.description, 1, DESCRIPTION_LENGTH_MAX
        ),  # left out, it is refused as "Invalid Remarks" (daraja.md §2.1)
    }


def _b2c(payment: Payment, account: Account, credential: str) -> Mapping[str, Any]:
    return {
        # The payment's id, the only one ever used for it: Daraja refuses its second use (daraja.md §4.2).
        "OriginatorConversationID": str(payment.id),
        "InitiatorName": account.initiator_name,
        "SecurityCredential": credential,
        "CommandID": _COMMANDS[payment.purpose or Purpose.BUSINESS],
        "Amount": str(payment.amount_kes),
        "PartyA": account.payout_shortcode,
        "PartyB": payment.phone_number,
        "Remarks": free_text(payment.remarks, *REMARKS_LENGTH),
        "QueueTimeOutURL": _address(payment, account, TIMEOUT_OPERATIONS[payment.kind]),
        "ResultURL": _address(payment, account, RESULT_OPERATIONS[payment.kind]),
        "Occassion": "",  # spelled so in v3
    }


def _b2b(payment: Payment, account: Account, credential: str) -> Mapping[str, Any]:
    return {
        "Initiator": account.initiator_name,
        "SecurityCredential": credential,
        "CommandID": "BusinessPayBill" if payment.paybill else "BusinessBuyGoods",
        "SenderIdentifierType": _SHORTCODE,
        "RecieverIdentifierType": _SHORTCODE if payment.paybill else _TILL,  # spelled so
        "Amount": str(payment.amount_kes),
        "PartyA": account.payout_shortcode,
        "PartyB": payment.paybill or payment.till,
        "AccountReference": payment.account_reference,  # as it is: a changed one would pay another account
        "Remarks": free_text(payment.remarks, *REMARKS_LENGTH),
        "QueueTimeOutURL": _address(payment, account, TIMEOUT_OPERATIONS[payment.kind]),
        "ResultURL": _address(payment, account, RESULT_OPERATIONS[payment.kind]),
        "Occassion": "",
    }


def free_text(text: str | None, shortest: int, longest: int) -> str:
    """`text` in letters, digits, blank, `.` and `-`, within Daraja's limits; the default if too little is left."""
    plain = "".join(
        character for character in unicodedata.normalize("NFKD", text or "") if not unicodedata.combining(character)
    )
    reduced = _NOT_FREE_TEXT.sub(" ", plain).strip()[:longest].rstrip()
    return reduced if len(reduced) >= shortest and _ALPHANUMERIC.search(reduced) else DEFAULT_TEXT


def stk_query_body(checkout_request_id: str, account: Account, now: datetime) -> Mapping[str, Any]:
    """The body that asks about a deposit (daraja.md §3)."""
    return {**_password(account, now), "CheckoutRequestID": checkout_request_id}


def status_body(
    payment: Payment, originator_id: str, number: int, account: Account, *, credential: str
) -> Mapping[str, Any]:
    """The body that asks about a payout, as inquiry `number` (daraja.md §6.1)."""
    return {
        "Initiator": account.initiator_name,
        "SecurityCredential": credential,
        "CommandID": "TransactionStatusQuery",
        # Sources disagree about the key's name; both are sent.
        "OriginalConversationID": originator_id,
        "OriginatorConversationID": originator_id,
        "PartyA": account.payout_shortcode,
        "IdentifierType": _SHORTCODE,
        "ResultURL": _address(payment, account, status_operation(number)),
        "QueueTimeOutURL": _address(payment, account, status_operation(number, for_timeout=True)),
        "Remarks": "Status",
        "Occasion": "",
    }


def _password(account: Account, now: datetime) -> dict[str, Any]:
    # Daraja checks only that timestamp and password agree (daraja.md §2.1).
    timestamp = now.astimezone(NAIROBI).strftime("%Y%m%d%H%M%S")
    password = base64.b64encode(f"{account.shortcode}{account.passkey}{timestamp}".encode()).decode()
    return {"BusinessShortCode": account.shortcode, "Password": password, "Timestamp": timestamp}


def _address(payment: Payment, account: Account, operation: str) -> str:
    return callback_address.address(account.callback_base_url, account.callback_secret, payment.id, operation)
