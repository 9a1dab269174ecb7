"""Refusals in other envelopes than Daraja's, doubtful refusals, and the reason of a refusal."""

from __future__ import annotations

import json
from typing import Any

from domain.errors import OutcomeUnknown, Refused
from domain.failures import FailureReason
from domain.kinds import Kind
from tests.case_tables import for_each
from tests.unit.daraja_messages import PAYOUT, answer_error, envelope, fault

# --- refusals in envelopes that are not Daraja's --------------------------------------------------

REFUSING_STATUSES = [400, 404, 405, 411, 413, 414, 415, 422]
OTHER_STATUSES = [402, 406, 407, 408, 409, 410, 412, 416, 418, 451, 199, 300, 307, 500, 503, 520]
OTHER_ENVELOPES: dict[str, Any] = {
    "status error":
        {"status": "error", "message": "The element AccountReference is invalid.", "data": "20"},
    "standing order":
        {"requestRefId": "c3d2-1", "responseCode": 400, "responseMessage": "Bad Request"},
    "standing order, text code":
        {"ResponseHeader": {"responseRefID": "c3d2-1", "responseCode": "1051"}},
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
    "null": None,
    "number": 400,
    "page in latin-1": b"<html><body>Requ\xeate refus\xe9e</body></html>",
    "xml": b"<?xml version='1.0'?><fault><code>20</code></fault>",
    "unknown code": envelope("BAD_REQUEST", "The request is not valid"),
    "code of another type": envelope(400, "Bad Request"),
    "code null": envelope(None, "Bad Request"),
    "fault": fault("messaging.adaptors.http.flow.ApplicationNotFound", "Unable to identify proxy"),
    "a key twice": b'{"status":"error","status":"error"}',
    "not JSON": b"{status: error}",
    "long": b"x" * 60_000,
}  # fmt: skip


@for_each("label", OTHER_ENVELOPES)
@for_each("kind", Kind)
def test_a_refusing_status_is_final_in_any_envelope(kind: Kind, label: str) -> None:
    """Daraja sends such a status before it acts. Any other status refuses nothing.

    If the envelope is unknown, the failure does not say that a retry is safe.
    """
    for status in REFUSING_STATUSES:
        error = answer_error(kind, status, OTHER_ENVELOPES[label])
        assert isinstance(error, Refused), status
        assert (error.failure.reason, error.failure.safe_to_retry) == (
            FailureReason.REJECTED_BY_PROVIDER,
            False,
        )
    for status in OTHER_STATUSES:
        error = answer_error(kind, status, OTHER_ENVELOPES[label])
        assert type(error) is OutcomeUnknown, status


TRACES: dict[str, Any] = {
    "conversation": {"ConversationID": "AG_1"},
    "originator": {"OriginatorConversationID": "9d20-1"},
    "original": {"OriginalConversationID": "9d20-1"},
    "checkout": {"CheckoutRequestID": "ws_CO_1"},
    "merchant": {"MerchantRequestID": "4c1e-1"},
    "with blanks": {"Originator Conversation ID": "9d20-1"},
    "snake case": {"checkout_request_id": "ws_CO_1"},
    "number": {"ConversationID": 5},
    "in an inner object": {"status": "error", "data": {"Result": [{"ConversationID": "AG_1"}]}},
    "in a text": {"status": "error", "data": '{"ConversationID":"AG_1"}'},
    "by its shape": {"status": "error", "message": "AG_20260301_2010aa was accepted"},
    "push by its shape": b"ws_CO_010320261015034711000111",
    "acknowledges": {"ResponseCode": "0", "ResponseDescription": "Success"},
    "acknowledges as a number": {"responseCode": 0},
    "acknowledges as newer products do": {"ResponseHeader": {"responseCode": "200"}},
    "acknowledges in words": {"message": "Success. Request accepted for processing"},
    "code of no known type": {"ResponseCode": False},
    "broken JSON, closed": b'{"status":"error",,"ConversationID":"AG_1"}',
    "broken JSON, name alone": b'{"ConversationID"}',
    "cut off within the name": b'{"status":"error","Convers',
    "a key twice": b'{"ConversationID":"AG_1","ConversationID":"AG_2"}',
    "a form": b"ConversationID=AG_1",
    "header": b"ConversationID: 9d20-1",
    "xml": b"<ConversationID>AG_1</ConversationID>",
    "escaped letters": b'{"Conversation\\u0049D" "AG_1"}',
    "page": b"<html><pre>{&quot;ConversationID&quot;:&quot;AG_1&quot;}</pre></html>",
    "UTF-16": json.dumps(PAYOUT).encode("utf-16"),
}


@for_each("label", TRACES)
@for_each("kind", Kind)
def test_a_refusal_with_a_trace_of_a_payment_refuses_nothing(kind: Kind, label: str) -> None:
    """An id or an acknowledgement contradicts the refusing status beside it.

    A body that cannot be read may contain either.
    """
    for status in (*REFUSING_STATUSES, 403):
        assert type(answer_error(kind, status, TRACES[label])) is OutcomeUnknown, status


# --- the reason of a refusal ----------------------------------------------------------------------

_C, _A, _P, _J = (
    FailureReason.CONFIGURATION, FailureReason.LIMIT_EXCEEDED, FailureReason.INVALID_RECIPIENT,
    FailureReason.REJECTED_BY_PROVIDER,
)  # fmt: skip


@for_each(
    ("status", "code", "text", "reason"),
    [
        (400, "400.002.02", "Declined due to limit rule", _A),
        (500, "500.001.1001", "Declined due to limit rule", _A),
        (500, "500.001.1001", "Wrong credentials", _C),
        (500, "500.001.1001", "Merchant does not exist", _C),
        (500, "500.001.1001", "Unable to lock subscriber…", FailureReason.SUBSCRIBER_BUSY),
        # An unknown 403 of Daraja may concern one payment only, so the operation is not held.
        (403, "403.001.01", "Not for you", _C),
        (405, "405.001", "Method Not Allowed", _C),
        (400, "400.002.05", "Invalid Request Payload", _C),
        # Otherwise three wrong phone numbers would hold the operation for all callers.
        (400, "400.003.02", "Bad Request - Invalid PhoneNumber", _P),
        (400, "400.003.02", "Invalid Access Header", _C),
    ],
)
def test_each_refusal_has_its_failure_reason(
    status: int, code: str, text: str, reason: FailureReason
) -> None:
    error = answer_error(Kind.DEPOSIT, status, envelope(code, text))
    assert isinstance(error, Refused)
    assert (error.failure.reason, error.failure.safe_to_retry, error.failure.provider_code) == (
        reason,
        True,
        code,
    )


# A field, and its reasons for a deposit, a withdrawal and a bill payment.
FIELDS: list[tuple[str, FailureReason, FailureReason, FailureReason]] = [
    *((name, _C, _C, _C) for name in (
        "CallBackURL", "Callback URL", "callback_url", "BusinessShortCode", "ShortCode", "Password",
        "Timestamp", "TransactionType", "Initiator", "Initiator Name", "SecurityCredential",
        "ResultURL", "QueueTimeOutURL", "Queue Time Out URL", "SenderIdentifierType",
        "RecieverIdentifierType", "ReceiverIdentifierType", "IdentifierType", "CommandID",
        "OriginatorConversationID", "Occassion", "Occasion",
    )),
    *((name, _A, _A, _A) for name in ("Amount", "AMOUNT", "Transaction Amount")),
    *((name, _P, _P, _P) for name in ("PhoneNumber", "phone_number", "MSISDN")),
    *((name, _P, _C, _C) for name in ("PartyA", "Party A", "PARTY_A")),
    *((name, _C, _P, _P) for name in ("PartyB", "Party B")),
    *((name, _J, _J, _J) for name in (
        "AccountReference", "TransactionDesc", "Remarks", "Something", "Party", "Party Account", "",
    )),
]  # fmt: skip


@for_each("row", FIELDS, ids=[row[0] for row in FIELDS])
def test_the_name_and_the_api_of_a_refused_field_decide_the_failure_reason(row: Any) -> None:
    """If the field is ours, every payment fails until an operator corrects the settings."""
    name, *reasons = row
    for kind, reason in zip(
        (Kind.DEPOSIT, Kind.WITHDRAWAL, Kind.BILL_PAYMENT), reasons, strict=True
    ):
        for text in (
            f"Bad Request - Invalid {name}",
            f"[x] - invalid value for {name}",
            f"The element {name} is invalid.",
        ):
            error = answer_error(kind, 400, envelope("400.002.02", text))
            assert isinstance(error, Refused)
            assert (error.failure.reason, error.failure.safe_to_retry) == (reason, True), text
