"""Answers that are not an API's own: refusals, pages, broken bodies.

Sources: daraja.md §1, §2.2, §3, §4.2.
"""

from collections.abc import Mapping

from tests.simulator.forms import VARIED, Forms, invalid_token, known_forms
from tests.simulator.shapes import CUT, Identities, Reply, invalid_field, reply

DEAD_ADDRESS = "http://127.0.0.1:9/moved"  # the discard port: nothing listens there
IN_PROCESS = "The transaction is still under processing"
SPIKE_ARREST = (
    "Spike arrest violation. Allowed rate : MessageRate{messagesPerPeriod=5, "
    "periodInMicroseconds=60000000, maxBurstMessageCount=1.0}"
)
LOCKED = "Unable to lock subscriber, a transaction is already in process for the current subscriber"
FIREWALL_PAGE = (
    b"<html><head><title>Request unsuccessful</title></head><body>Incident ID: 0-0</body></html>"
)

# HTTP status, errorCode and errorMessage. If sources disagree on the status, the documentation's
# status is used.
ENVELOPES: dict[str, tuple[int, str, str]] = {
    "spike_arrest_json": (500, "500.003.02", "Error Occurred: Spike Arrest Violation"),
    "quota": (500, "500.003.03", "Error Occurred: Quota Violation"),
    "system_busy": (500, "500.003.02", "System is busy. Please try again in few minutes."),
    "internal_error": (500, "500.003.1001", "Internal Server Error"),
    "merchant_missing": (500, "500.001.1001", "Merchant does not exist"),
    "wrong_credentials": (500, "500.001.1001", "[MerchantValidate] - Wrong credentials"),
    "subscriber_locked": (500, "500.001.1001", LOCKED),
    "maintenance": (
        503,
        "500.002.1001",
        "Service is currently under maintenance. Please try again in a while.",
    ),
    "duplicate_ocid": (500, "500.002.1001", "Duplicate OriginatorConversationID."),
    "system_internal_error": (500, "500.002.1001", "System internal error."),
    "gateway_403": (403, "403.002.1001", "Invalid API call"),
    "error_envelope_200": (200, "500.003.1001", "Internal Server Error"),
    "in_flight_b": (200, "500.001.1001", ""),
    "in_flight_c": (500, "500.001.1001", "The transaction is being processed"),
    "stray_500": (500, "500.001.1001", "The transaction is being processed"),
    "query_too_early": (400, "400.002.02", "Bad Request - Invalid CheckoutRequestID"),
    "query_unknown": (500, "500.001.1001", "The transaction does not Exist"),
    "wrong_path": (404, "404.001.01", "Resource not found"),
    "wrong_verb": (405, "405.001", "Method Not Allowed"),
    "malformed": (400, "400.002.05", "Invalid Request Payload"),
    "no_authorization": (404, "404.001.04", "Invalid Authentication Header"),
    "not_basic": (400, "400.008.01", "Invalid Authentication passed"),
    "wrong_grant_type": (400, "400.008.02", "Invalid grant type passed"),
}

PAGES: dict[str, Reply] = {
    "html_200": Reply(200, b"<html><body>Welcome</body></html>", "text/html"),
    "html_403": Reply(403, FIREWALL_PAGE, "text/html"),
    "html_503": Reply(503, b"<html><body>Service Unavailable</body></html>", "text/html"),
    "garbage_200": Reply(200, b'{"ConversationID":"AG_2026', "application/json"),
    "empty_200": Reply(200),
    "redirect": Reply(302, b"", "text/html", location=DEAD_ADDRESS),
    "cut": CUT,
    "spike_arrest_apigee": reply(
        {
            "fault": {
                "faultstring": SPIKE_ARREST,
                "detail": {"errorcode": "policies.ratelimit.SpikeArrestViolation"},
            }
        },
        status=429,
    ),
}


def canned_reply(
    name: str,
    *,
    api: str,
    token: str,
    params: Mapping[str, object],
    forms: Forms,
    ids: Identities,
) -> Reply:
    """Return the answer of this name. Some answers have several forms, some quote the token."""
    if name in VARIED:
        known = known_forms(name, api, token, ids)
        return known[forms.draw(f"{name}/{api}", tuple(known), params)]
    if name in PAGES:
        return PAGES[name]
    if name in ENVELOPES:
        status, code, message = ENVELOPES[name]
        return ids.error(
            status, str(params.get("error_code", code)), str(params.get("error_message", message))
        )
    if name == "token_expired":
        return invalid_token(api, token, ids)
    assert name == "invalid_request", name
    return invalid_field(str(params.get("field", "Amount")), ids)


def envelope(name: str, ids: Identities) -> Reply:
    """Return the error envelope of this name."""
    return ids.error(*ENVELOPES[name])


def query_result(checkout_request_id: str, merchant_request_id: str, code: str, desc: str) -> Reply:
    """Return an answer to STK query: every value is a string, no receipt, no amount (§3)."""
    return reply(
        {
            "ResponseCode": "0",
            "ResponseDescription": "The service request has been accepted successsfully",
            "MerchantRequestID": merchant_request_id,
            "CheckoutRequestID": checkout_request_id,
            "ResultCode": code,
            "ResultDesc": desc,
        }
    )
