"""Gives the model's answers and messages to the product's parsers, as the bytes of daraja.md.

Few of them differ, so each different one is parsed once for all lives.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, NamedTuple

from domain.adapters.daraja.answers import read_answer
from domain.adapters.daraja.client import NO_ANSWER
from domain.adapters.daraja.deposit import read_query_answer
from domain.adapters.daraja.pages import PAGES
from domain.adapters.daraja.reports import read_report
from domain.attempts import ProviderIds
from domain.callback_address import status_operation
from domain.changes import StoredCallback
from domain.errors import OutcomeUnknown, ProviderError, Throttled
from domain.kinds import RULES, Kind
from domain.report import Report
from tests.builders import AMOUNT_KES, a_callback
from tests.proof.interleavings.provider import OWN_ID, Answer, Message
from tests.simulator.answers import ENVELOPES, query_result
from tests.simulator.status import NOT_FOUND
from tests.unit.daraja_messages import (
    ABSENT,
    ACKNOWLEDGEMENTS,
    as_items,
    envelope,
    payout,
    stk,
)
from tests.unit.status_messages import status


class ReadAnswer(NamedTuple):
    """A synchronous answer as `DarajaClient` reads it: ids, or an error."""

    ids: ProviderIds
    error: ProviderError | None


LOST_ANSWER = ReadAnswer(frozenset(), OutcomeUnknown("no answer: TimeoutError"))


@lru_cache(maxsize=4096)
def read_submit_answer(kind: Kind, answer: Answer) -> ReadAnswer:
    """`answer` as `DarajaClient.submit` reads it."""
    status, body = _answer_bytes(kind, answer)
    try:
        return ReadAnswer(read_answer(PAGES[kind].api, kind, status, body), None)
    except ProviderError as error:
        return ReadAnswer(frozenset(), error)


@lru_cache(maxsize=4096)
def report_of(kind: Kind, message: Message) -> Report:
    """The report that the receiver reads from a message to one of our addresses."""
    body = json.dumps(_message_body(kind, message)).encode()
    return read_report(operation_of(kind, message), body)


@lru_cache(maxsize=4096)
def query_report(message: Message, checkout_id: str) -> Report:
    """An answer to STK query as `DarajaClient.ask` and its caller read it."""
    if message.outcome == "no_answer":
        return NO_ANSWER
    status, body = _query_bytes(message)
    try:
        return read_query_answer(status, body, checkout_id)
    except Throttled:
        return NO_ANSWER


@lru_cache(maxsize=4096)
def operation_of(kind: Kind, message: Message) -> str:
    """The operation in the address to which `message` is sent."""
    if message.address == "result":
        return RULES[kind].result_operation
    if message.address == "timeout":
        timeout = RULES[kind].timeout_operation
        assert timeout is not None
        return timeout
    return status_operation(message.number, for_timeout=message.address == "status-timeout")


@lru_cache(maxsize=4096)
def callback_of(
    kind: Kind, message: Message, outcome: str, receipt: str | None = None
) -> StoredCallback:
    """The message as the receiver stores it. No decision depends on its id, so all have one id."""
    changes = {"source_address": "203.0.113.9"} if message.from_elsewhere else {}
    return a_callback(
        operation=operation_of(kind, message),
        outcome=outcome,
        source_allowed=not message.from_elsewhere,
        receipt=receipt,
        **changes,
    )


# The error bodies are the simulator's, so both models of Daraja use one table.
_ENVELOPE_OF = {
    "duplicate": "duplicate_ocid", "busy": "system_busy", "throttled": "spike_arrest_json",
}  # fmt: skip


def _error(status: int, code: str, text: str) -> tuple[int, bytes]:
    return status, json.dumps(envelope(code, text)).encode()


def _answer_bytes(kind: Kind, answer: Answer) -> tuple[int, bytes]:
    """Status and body of an answer to a send (§2.2, §4.2)."""
    match answer.outcome:
        case "acknowledged":
            names = ("CheckoutRequestID", "MerchantRequestID")
            if kind is not Kind.DEPOSIT:
                names = ("OriginatorConversationID", "ConversationID")
            ids = dict(zip(names, (answer.first_id, answer.second_id), strict=True))
            return 200, json.dumps(ACKNOWLEDGEMENTS[kind] | ids).encode()
        case "token_refused":
            return _error(404, "404.001.03", "Invalid Access Token")
        case "refused":
            return _error(400, "400.002.02", "Bad Request - Invalid Amount")
        case outcome:
            return _error(*ENVELOPES[_ENVELOPE_OF.get(outcome, "internal_error")])


def _query_bytes(message: Message) -> tuple[int, bytes]:
    """Status and body of an answer to STK query (§3)."""
    if message.outcome == "vague":
        return _error(500, "500.001.1001", "")
    if message.outcome == "too_early":
        return _error(*ENVELOPES["query_too_early"])
    answer = query_result(message.first_id, message.second_id, message.code, "as the code says")
    return answer.status, answer.body


_STATES = {"paid": "Completed", "failed": "Failed", "under_way": "Pending"}


def _message_body(kind: Kind, message: Message) -> Any:
    if message.address in ("timeout", "status-timeout"):  # §4.4
        return {"OriginatorConversationID": message.first_id, "Remarks": "an echo of our request"}
    if message.address == "status":
        return _status_result(message)
    code, is_paid = int(message.code), message.outcome == "paid"
    amount = AMOUNT_KES + message.extra_kes
    if kind is Kind.DEPOSIT:  # §2.3
        items: dict[str, Any] = {"Amount": float(amount), "Balance": ABSENT}
        if message.receipt:
            items["MpesaReceiptNumber"] = message.receipt
        ids = {"MerchantRequestID": message.second_id, "CheckoutRequestID": message.first_id}
        return stk(code, as_items(items, "Name") if is_paid else ABSENT, **ids)
    # §4.3, §5
    items = {"TransactionAmount" if kind in OWN_ID else "Amount": amount}
    if message.receipt and kind in OWN_ID:
        items["TransactionReceipt"] = message.receipt
    return payout(
        code,
        as_items(items, "Key") if is_paid else ABSENT,
        OriginatorConversationID=message.first_id,
        ConversationID=message.second_id,
        TransactionID=message.receipt if is_paid else "UC10000000",
    )


def _status_result(message: Message) -> dict[str, Any]:
    """§6.1: the envelope is about the inquiry, the parameters are about the payment."""
    match message.outcome:
        case "not_found":
            form = NOT_FOUND["SFC_IC0003"]
            return status(form.code, ABSENT, ResultDesc=form.text)
        case "credential" | "no_answer":
            return status(int(message.code), ABSENT)
        case state:
            items: dict[str, Any] = {
                "OriginatorConversationID": message.first_id,
                "ConversationID": message.second_id,
                "TransactionStatus": _STATES[state],
                "Amount": float(AMOUNT_KES),
            }
            if message.receipt:
                items["ReceiptNo"] = message.receipt
            return status(0, as_items(items, "Key"))
