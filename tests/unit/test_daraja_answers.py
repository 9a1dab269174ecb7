"""The class of each synchronous answer of Daraja, as in the tables of daraja.md."""

from __future__ import annotations

from typing import Any

from domain.adapters.daraja.answers import read_answer
from domain.adapters.daraja.pages import PAGES
from domain.errors import (
    DuplicateSubmission,
    OutcomeUnknown,
    ProductRefused,
    ProviderError,
    Refused,
    Resendable,
    Throttled,
    TokenRefused,
)
from domain.kinds import Kind
from tests.case_tables import for_each
from tests.unit.daraja_messages import (
    ACKNOWLEDGEMENTS,
    CHECKOUT,
    PAYOUT,
    STK,
    answer_error,
    as_body,
    envelope,
    fault,
)


@for_each("kind", Kind)
@for_each("code", ["0", 0])
def test_an_acknowledgement_has_the_ids(kind: Kind, code: object) -> None:
    body = as_body(ACKNOWLEDGEMENTS[kind] | {"ResponseCode": code})
    expected = (
        {("checkout_request_id", CHECKOUT), ("merchant_request_id", "4c1e-118203")}
        if kind is Kind.DEPOSIT
        else {
            ("conversation_id", "AG_20260301_2010"),
            ("originator_conversation_id", "payout-17"),
        }
    )
    assert read_answer(PAGES[kind].api, kind, 200, body) == expected


@for_each("kind", Kind)
@for_each(("text", "is_id"), [("x" * 64, True), ("x" * 65, False), ("a\nb", False), ("é", False)])
def test_an_acknowledgement_needs_an_id_of_up_to_64_characters(
    kind: Kind, text: str, is_id: bool
) -> None:
    answer = ACKNOWLEDGEMENTS[kind] | {PAGES[kind].api.acknowledgement_id: text}
    error = answer_error(kind, 200, answer)
    assert error is None if is_id else type(error) is OutcomeUnknown


U, T, R, TH, DU, RS, PR = (
    OutcomeUnknown, TokenRefused, Refused, Throttled, DuplicateSubmission, Resendable,
    ProductRefused,
)  # fmt: skip
# Every row of the contract's tables: a label, the status, the answer and its class. RS is the class
# for a withdrawal. For the other kinds the outcome is unknown, because Daraja may accept a second
# send of them.
ROWS: list[tuple[str, int, Any, type[ProviderError]]] = [
    # the token: 404, 401 or 400, by API, and any 401
    ("token, STK", 404, envelope("404.001.03", "Invalid Access Token"), T),
    ("token, B2C", 401, envelope("401.002.01", "Error Occurred - Invalid Access Token - abc"), T),
    ("token, status", 400, envelope("400.003.01", "Invalid Access Token"), T),
    ("token, some SDKs", 401, envelope("401.003.01", "Invalid Access Token"), T),
    ("token, in a 200", 200, envelope("401.002.01", "Invalid Access Token"), T),
    ("token, in a redirect", 300, envelope("401.002.01", "Invalid Access Token"), T),
    ("token, in a 503", 503, envelope("401.002.01", "Invalid Access Token"), T),
    ("token, unknown code", 401, envelope("401.001", "Invalid Access Token"), T),
    ("token, text of another envelope", 400,
     {"status": "error", "message": "Invalid Access Token"}, T),
    ("401 with empty ids", 401,
     {"ResponseCode": "401", "ConversationID": "", "CheckoutRequestID": None}, T),
    ("401 of another field", 401, envelope("400.002.02", "Bad Request - Invalid Amount"), T),
    ("401 of a busy system", 401, envelope("500.003.02", "System is busy."), T),
    ("401 of a limit", 401, envelope("500.003.03", "Quota Violation"), T),
    ("401, list", 401, b"[]", T),
    ("401, page", 401, b"<html>Unauthorized</html>", T),
    ("401, empty", 401, b"", T),
    # the product
    ("no product", 401,
     fault("keymanagement.service", "Invalid API call as no apiproduct match found"), PR),
    ("no product, text", 403, b"Invalid API call as no apiproduct match found", PR),
    ("no product, as one word", 401,
     fault("keymanagement.InvalidAPICallAsNoApiProductMatchFound", ""), PR),
    ("forbidden", 403, envelope("403.002.1001", "Forbidden"), PR),
    ("firewall", 403, b"<html>Incapsula incident</html>", PR),
    ("firewall, doctype", 403,
     b"\xef\xbb\xbf \r\n<!DOCTYPE HTML PUBLIC '-//W3C//DTD'>\n<HTML><HEAD>", PR),
    ("firewall, comment", 403, b"<!-- blocked -->\n<html><body>Access Denied</body></html>", PR),
    ("firewall, no html element", 403, b"<head><title>403 Forbidden</title></head>", PR),
    # too many requests
    ("spike arrest", 500, envelope("500.003.02", "Error Occurred: Spike Arrest Violation"), TH),
    ("quota", 500, envelope("500.003.03", "Error Occurred: Quota Violation"), TH),
    ("apigee, 500", 500,
     fault("policies.ratelimit.QuotaViolation", "Rate limit quota violation."), TH),
    ("429, html", 429, b"<html>Too many</html>", TH),
    # busy
    ("busy", 500, envelope("500.003.02", "System is busy. Please try again in few minutes."), RS),
    ("maintenance", 503,
     envelope("00.002.1001", "Service is currently under maintenance."), RS),
    # a definite refusal
    ("validation", 400, envelope("400.002.02", "Bad Request - Invalid Remarks"), R),
    ("wrong credentials", 500,
     envelope("500.001.1001", "[MerchantValidate] - Wrong credentials"), R),
    ("merchant", 500, envelope("500.001.1001", "Merchant does not exist"), R),
    ("locked", 500,
     envelope("500.001.1001", "Unable to lock subscriber, a transaction is already in process"), R),
    ("path", 404, envelope("404.001.01", "Resource not found"), R),
    ("verb", 405, envelope("405.001", "Method Not Allowed"), R),
    # Daraja had the payment before: recognized in any envelope and with any status
    ("duplicate", 500, envelope("500.002.1001", "Duplicate OriginatorConversationID."), DU),
    ("duplicate, 200", 200,
     {"ResponseCode": "1", "ResponseDescription": "Duplicate OriginatorConversationID."}, DU),
    ("duplicate, 400", 400,
     envelope("400.002.02", "Bad Request - Duplicate OriginatorConversationID."), DU),
    ("duplicate, 409", 409, envelope("409.001", "Duplicate Originator Conversation ID"), DU),
    ("duplicate, another envelope", 400,
     {"status": "error", "message": "Duplicate OriginatorConversationID.", "data": "20"}, DU),
    ("duplicate, plain text", 422, b"Duplicate OriginatorConversationID.", DU),
    # Daraja may have acted
    ("internal", 500, envelope("500.003.1001", "Internal Server Error"), U),
    ("one code, unknown text", 500,
     envelope("500.001.1001", "The transaction is being processed"), U),
    ("one code, no text", 500, envelope("500.001.1001", ""), U),
    ("unknown 5xx code", 500, envelope("999.9.9", "Something new"), U),
    ("envelope in a 200", 200, envelope("500.001.1001", ""), U),
    ("request timeout", 408, envelope("408.001", "Request timeout"), U),
    ("conflict", 409, envelope("409.001", "Conflict"), U),
    ("502", 502, b"", U),
    ("503, html", 503, b"<html>Service Unavailable</html>", U),
    ("403, empty", 403, b"", U),
    ("403, unknown envelope", 403, {"message": "Forbidden"}, U),
    ("403, xml", 403, b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", U),
    ("403, page with an acknowledgement", 403, b"<html>" + as_body(PAYOUT), U),
    ("internal in a 400", 400, envelope("500.003.1001", "Internal Server Error"), U),
    ("redirect", 302, b"", U),
    ("redirect with an acknowledgement", 307, STK, U),
    ("redirect with a refusal", 300, envelope("400.002.02", "Bad Request - Invalid Amount"), U),
    ("redirect with wrong credentials", 399, envelope("500.001.1001", "Wrong credentials"), U),
    ("html in a 200", 200, b"<html>Welcome</html>", U),
    ("acknowledgement in a 500", 500, STK, U),
    ("another fault", 500, fault("steps.javascript.ScriptExecutionFailed", "Execution failed"), U),
    ("fault of another shape", 500, {"fault": "down"}, U),
]  # fmt: skip


@for_each("row", ROWS, ids=[row[0] for row in ROWS])
def test_each_answer_of_the_contract_has_its_class_for_each_kind(
    row: tuple[str, int, Any, type[ProviderError]],
) -> None:
    _, status, answer, expected = row
    for kind in Kind:
        is_unknown = expected is Resendable and kind is not Kind.WITHDRAWAL
        error = answer_error(kind, status, answer)
        assert type(error) is (OutcomeUnknown if is_unknown else expected), kind
        assert not isinstance(error, Throttled) or error.wait_seconds > 0
