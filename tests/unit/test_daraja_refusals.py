"""Refusals in other envelopes than Daraja's, doubtful refusals, and the field that one names."""

from __future__ import annotations

import json
from typing import Any

import pytest

from domain.errors import DuplicateSubmission, OutcomeUnknown, Refused
from domain.failures import FailureReason
from domain.kinds import Kind
from tests.case_tables import for_each
from tests.unit.daraja_messages import PAYOUT_ACK, answer_error, envelope, fault

# --- refusals in envelopes that are not Daraja's --------------------------------------------------

REFUSING_STATUSES = [400, 404, 405, 411, 413, 414, 415, 422]
OTHER_STATUSES = [
    402, 403, 406, 407, 408, 409, 410, 412, 416, 417, 418, 421, 423, 424, 425, 426, 428, 431, 451,
    499, 199, 300, 302, 307, 500, 501, 502, 503, 504, 520,
]  # fmt: skip
OTHER_ENVELOPES: dict[str, Any] = {
    "status error":
        {"status": "error", "message": "The element AccountReference is invalid.", "data": "20"},
    "standing order":
        {"requestRefId": "c3d2-1", "responseCode": 400, "responseMessage": "Bad Request"},
    "standing order, text code":
        {"ResponseHeader": {"responseRefID": "c3d2-1", "responseCode": "1051"}},
    "response code alone": {"ResponseCode": "1", "ResponseDescription": "Bad Request"},
    "response code empty": {"ResponseCode": "", "ResponseDescription": "Bad Request"},
    "ids that are empty":
        {"ConversationID": "", "CheckoutRequestID": None, "message": "Bad Request"},
    "a field named in words":
        {"status": "error", "message": "The element OriginatorConversationID is invalid."},
    "a field named in a text": b"Invalid ConversationID.",
    "plain text": b"Failed to deserialize the JSON body: "
    b"Amount: invalid type: integer, expected a string",
    "empty": b"",
    "list": [{"loc": ["body", "Amount"], "msg": "not a string"}],
    "text in JSON": "Bad Request",
    "null": None,
    "number": 400,
    "page": b"<!DOCTYPE html><html><body><h1>404 Not Found</h1></body></html>",
    "page in latin-1": b"<html><body>Requ\xeate refus\xe9e</body></html>",
    "xml": b"<?xml version='1.0'?><fault><code>20</code></fault>",
    "unknown code": envelope("BAD_REQUEST", "The request is not valid"),
    "fault": fault("messaging.adaptors.http.flow.ApplicationNotFound", "Unable to identify proxy"),
    "a key twice": b'{"status":"error","status":"error"}',
    "not JSON": b"{status: error}",
}  # fmt: skip


@for_each("label", OTHER_ENVELOPES)
@for_each("kind", Kind)
def test_a_refusing_status_is_final_in_any_envelope(kind: Kind, label: str) -> None:
    """Daraja sends such a status before it acts.

    For an unknown envelope we do not promise that a retry is safe.
    """
    for status in REFUSING_STATUSES:
        error = answer_error(kind, status, OTHER_ENVELOPES[label])
        assert isinstance(error, Refused), status
        assert (error.failure.reason, error.failure.safe_to_retry) == (
            FailureReason.REJECTED_BY_PROVIDER,
            False,
        )


@for_each("label", [label for label in OTHER_ENVELOPES if "page" not in label])
def test_another_status_refuses_nothing_in_an_envelope_that_we_do_not_know(label: str) -> None:
    for status in OTHER_STATUSES:
        error = answer_error(Kind.WITHDRAWAL, status, OTHER_ENVELOPES[label])
        assert type(error) is OutcomeUnknown, status


TRACES: dict[str, Any] = {
    "conversation": {"ConversationID": "AG_1"},
    "originator": {"OriginatorConversationID": "9d20-1"},
    "original": {"OriginalConversationID": "9d20-1"},
    "checkout": {"CheckoutRequestID": "ws_CO_1"},
    "merchant": {"MerchantRequestID": "4c1e-1"},
    "with blanks": {"Originator Conversation ID": "9d20-1"},
    "in small letters": {"conversationid": "AG_1"},
    "snake case": {"checkout_request_id": "ws_CO_1"},
    "number": {"ConversationID": 5},
    "within": {"status": "error", "data": {"Result": [{"ConversationID": "AG_1"}]}},
    "in a list": [{"ConversationID": "AG_1"}],
    "in a text": {"status": "error", "data": '{"ConversationID":"AG_1"}'},
    "by its shape": {"status": "error", "message": "AG_20260301_2010aa was accepted"},
    "push by its shape": b"ws_CO_010320261015034711000111",
    "acknowledges": {"ResponseCode": "0", "ResponseDescription": "Success"},
    "acknowledges as a number": {"responseCode": 0},
    "acknowledges as newer products do": {"ResponseHeader": {"responseCode": "200"}},
    "acknowledges in words": {"message": "Success. Request accepted for processing"},
    "code of no known type": {"ResponseCode": False},
    "broken JSON": b'{"status":"error","ConversationID":"AG_1"',
    "broken JSON, closed": b'{"status":"error",,"ConversationID":"AG_1"}',
    "broken JSON, name alone": b'{"ConversationID"}',
    "cut off before it": b'{"status":"error","Convers',
    "a key twice": b'{"ConversationID":"AG_1","ConversationID":"AG_2"}',
    "single quotes": b"{'ConversationID': 'AG_1'}",
    "a form": b"ConversationID=AG_1",
    "header": b"ConversationID: 9d20-1",
    "xml": b"<ConversationID>AG_1</ConversationID>",
    "escaped letters": b'{"Conversation\\u0049D" "AG_1"}',
    "page": b"<html><pre>{&quot;ConversationID&quot;:&quot;AG_1&quot;}</pre></html>",
    "UTF-16": json.dumps(PAYOUT_ACK).encode("utf-16"),
    "not text": bytes(range(256)),
}


@for_each("label", TRACES)
@for_each("kind", Kind)
def test_a_refusal_with_a_trace_of_a_payment_refuses_nothing(kind: Kind, label: str) -> None:
    """An id or an acknowledgement contradicts the refusing status beside it.

    A body that cannot be read may contain either.
    """
    for status in (*REFUSING_STATUSES, 403):
        assert type(answer_error(kind, status, TRACES[label])) is OutcomeUnknown, status


@pytest.mark.parametrize("kind", Kind)
def test_a_refusal_in_daraja_s_own_envelope_refuses_nothing_beside_an_id(kind: Kind) -> None:
    for trace in (
        {"ConversationID": "AG_1"},
        {"MerchantRequestID": "4c1e"},
        {"data": {"CheckoutRequestID": "ws_CO_1"}},
    ):
        answer = envelope("400.002.02", "Bad Request - Invalid Amount") | trace
        assert type(answer_error(kind, 400, answer)) is OutcomeUnknown


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (400, envelope("400.002.02", "Bad Request - Duplicate OriginatorConversationID.")),
        (409, envelope("409.001", "Duplicate OriginatorConversationID.")),
        (500, envelope("500.002.1001", "[Controller - ]Duplicate OriginatorConversationID.")),
        (400, envelope("500.002.1001", "Duplicate Originator Conversation ID")),
        (400, {"status": "error", "message": "Duplicate OriginatorConversationID.", "data": "20"}),
        (422, b"Duplicate OriginatorConversationID."),
        (400, {"ResponseCode": "1", "ResponseDescription": "Duplicate OriginatorConversationID."}),
    ],
)
def test_a_duplicate_is_known_in_any_envelope_and_with_any_status(status: int, answer: Any) -> None:
    """An earlier send may have paid, so this refusal ends nothing."""
    assert type(answer_error(Kind.WITHDRAWAL, status, answer)) is DuplicateSubmission


# --- the field that a refusal names ---------------------------------------------------------------

_C, _A, _P, _J = (
    FailureReason.CONFIGURATION, FailureReason.LIMIT_EXCEEDED, FailureReason.INVALID_RECIPIENT,
    FailureReason.REJECTED_BY_PROVIDER,
)  # fmt: skip
# Field, and the reason for a deposit, a withdrawal, a bill payment.
FIELDS: list[tuple[str, FailureReason, FailureReason, FailureReason]] = [
    *((name, _C, _C, _C) for name in (
        "CallBackURL", "Callback URL", "callback_url", "BusinessShortCode", "Business Short Code",
        "ShortCode", "Password", "Timestamp", "TransactionType", "Initiator", "InitiatorName",
        "Initiator Name", "SecurityCredential", "Security Credential", "ResultURL", "Result URL",
        "QueueTimeOutURL", "QueueTimeoutUrl", "Queue Time Out URL", "SenderIdentifierType",
        "RecieverIdentifierType", "ReceiverIdentifierType", "IdentifierType", "CommandID",
        "Command ID", "OriginatorConversationID", "Occassion", "Occasion",
    )),
    *((name, _A, _A, _A) for name in ("Amount", "amount", "AMOUNT", "Transaction Amount")),
    *((name, _P, _P, _P) for name in ("PhoneNumber", "Phone Number", "phone_number", "MSISDN")),
    *((name, _P, _C, _C) for name in ("PartyA", "Party A", "partya", "PARTY_A")),
    *((name, _C, _P, _P) for name in ("PartyB", "Party B", "partyb")),
    *((name, _J, _J, _J) for name in (
        "AccountReference", "Account Reference", "TransactionDesc", "Remarks", "Something", "Party",
        "Party Account", "",
    )),
]  # fmt: skip


@for_each("row", FIELDS, ids=[row[0] for row in FIELDS])
def test_a_refused_field_is_the_callers_or_ours_by_its_name_and_the_api(row: Any) -> None:
    """If the field is ours, every payment fails until an operator corrects the settings."""
    name, *reasons = row
    for kind, reason in zip(
        (Kind.DEPOSIT, Kind.WITHDRAWAL, Kind.BILL_PAYMENT), reasons, strict=True
    ):
        texts = [
            f"Bad Request - Invalid {name}",
            f"Bad Request - Invalid {name}.",
            f"[x] - invalid value for {name}",
        ]
        for text in [*texts, f"The element {name} is invalid."]:
            error = answer_error(kind, 400, envelope("400.002.02", text))
            assert isinstance(error, Refused)
            assert (error.failure.reason, error.failure.safe_to_retry) == (reason, True), text


def test_another_code_that_names_the_callers_field_is_not_our_configuration() -> None:
    """Otherwise three wrong phone numbers would hold the operation for all callers."""
    for text, reason in (
        ("Bad Request - Invalid PhoneNumber", _P),
        ("Invalid Access Header", _C),
        ("Invalid ResultURL", _C),
    ):
        error = answer_error(Kind.DEPOSIT, 400, envelope("400.003.02", text))
        assert isinstance(error, Refused)
        assert error.failure.reason is reason
