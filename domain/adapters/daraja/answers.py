"""Classifies Daraja's synchronous answers: ids of an acknowledgement, or one error class.

No other module classifies them (rules.md §13). An answer that this module does not name is
`OutcomeUnknown`, because Daraja may have acted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from domain.adapters.daraja.messages import is_provider_id
from domain.adapters.daraja.refused_fields import find_field_reason
from domain.adapters.daraja.requests import Api
from domain.adapters.daraja.result_codes import SUCCESS_CODE, code_text
from domain.adapters.daraja.traces import has_payment_trace, may_have_payment_trace
from domain.adapters.strict_json import Unreadable, parse
from domain.attempts import IdKind, ProviderIds
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
from domain.failures import Failure, FailureReason
from domain.kinds import RULES, Kind

# Each API has its own code for an invalid token. Any 401 means the same (daraja.md §1).
_TOKEN_CODES = frozenset({"404.001.03", "401.002.01", "401.003.01", "400.003.01"})

ID_KINDS = {
    "CheckoutRequestID": IdKind.CHECKOUT_REQUEST,
    "MerchantRequestID": IdKind.MERCHANT_REQUEST,
    "ConversationID": IdKind.CONVERSATION,
    "OriginatorConversationID": IdKind.ORIGINATOR_CONVERSATION,
}

# The shortest wait after Daraja's rate limiter refused a request. The sandbox allows 5 STK queries
# a minute. The limits of production are unpublished (daraja.md §3, §9).
_THROTTLED_WAIT_SECONDS = 2.0

# Daraja's own error codes, such as `405.001` and `400.002.02`. A server in front of Daraja uses
# other codes, or none.
_DARAJA_CODE = re.compile(r"\d{2,3}(\.\d{2,4}){1,2}", re.ASCII)
_CODE_LENGTH_MAX = 80

# An answer with one of these statuses was sent before Daraja acted, whatever form its body has
# (daraja.md §2.2). 408 and 409 may be sent after Daraja acted. Other statuses were never seen from
# Daraja.
_REFUSING_STATUSES = frozenset({400, 404, 405, 411, 413, 414, 415, 422})
_AMBIGUOUS_STATUSES = frozenset({408, 409})
# Only a code of this form may be shown if we do not know the envelope that it came in.
_SHOWABLE_CODE = re.compile(r"[A-Za-z0-9._-]{1,24}")

_FORBIDDEN_PRODUCT = "403.002.1001"
_NO_PRODUCT = re.compile(r"no\s{0,3}api\s{0,3}product\s{0,3}match", re.IGNORECASE)
_DUPLICATE_ID = re.compile(r"duplicate[\s_-]{0,3}originator[\s_-]{0,3}conversation", re.IGNORECASE)
_INVALID_TOKEN = re.compile(r"(invalid|expired)[\s_-]{0,3}access[\s_-]{0,3}token", re.IGNORECASE)
_HTML_TAG = re.compile(
    r"<(!doctype\s{1,9}html|html|head|body|title|meta|center|h1)\b", re.IGNORECASE
)
_HTML_PREAMBLES = {"<?": "?>", "<!--": "-->"}

_LIMIT_RULE = re.compile(r"limit rule", re.IGNORECASE)
_MAINTENANCE = re.compile(r"under maintenance|maintenance", re.IGNORECASE)


def read_answer(api: Api, kind: Kind, status: int, body: bytes) -> ProviderIds:
    """Return the ids of an acknowledgement. For any other answer, raises its `ProviderError`."""
    message = parse_json_object(body)
    if message is not None and 200 <= status < 300 and "errorCode" not in message:
        return _read_acknowledgement(api, message)
    if message is not None and has_payment_trace(message):
        raise OutcomeUnknown(
            f"status {status} refuses the request, but the body shows a payment's id"
        )
    raise _classify_error(kind, status, body, message)


def read_error(
    status: int, body: bytes, message: Mapping[str, Any] | None
) -> tuple[str | None, str]:
    """Return the code and the text of an error of Daraja.

    Raises TokenRefused, ProductRefused or Throttled if Daraja refused the request without reading
    it.
    """
    code, text = _read_code_and_text(message)
    if (status >= 400 or (code is not None and status < 300)) and _NO_PRODUCT.search(
        _searchable_text(body, message)
    ):
        raise ProductRefused("our app lacks this product", code=code or str(status))
    if code == _FORBIDDEN_PRODUCT and 400 <= status < 500:
        raise ProductRefused("our app may not use this operation", code=code)
    if status == 403 and _is_html_page(body) and not may_have_payment_trace(body):
        raise ProductRefused("a firewall in front of Daraja answered", code="403")
    if code in _TOKEN_CODES or status == 401:
        raise TokenRefused(code=code or "401")
    if _is_throttled(status, code, text):
        raise Throttled(code=code or "429", wait_seconds=_THROTTLED_WAIT_SECONDS)
    return code, text


def _read_acknowledgement(api: Api, message: Mapping[str, Any]) -> ProviderIds:
    if "duplicate originatorconversationid" in str(message.get("ResponseDescription")).lower():
        raise DuplicateSubmission(code=code_text(message.get("ResponseCode")))
    if code_text(message.get("ResponseCode")) != SUCCESS_CODE or not is_provider_id(
        message.get(api.acknowledgement_id)
    ):
        raise OutcomeUnknown("the answer is not an acknowledgement that we know")
    return frozenset(
        (ID_KINDS[name], message[name]) for name in ID_KINDS if is_provider_id(message.get(name))
    )


def _classify_error(
    kind: Kind, status: int, body: bytes, message: Mapping[str, Any] | None
) -> ProviderError:
    # If the text names a duplicate id, an earlier send may have paid, whatever code and status the
    # answer has.
    if _DUPLICATE_ID.search(_searchable_text(body, message)):
        return DuplicateSubmission(code=_read_code_and_text(message)[0])
    try:
        code, text = read_error(status, body, message)
    except (TokenRefused, ProductRefused, Throttled) as refusal:
        return refusal
    if code is not None and _DARAJA_CODE.fullmatch(code):
        return _classify_daraja_error(kind, status, code, text)
    return _classify_other_error(status, body, code)


def _classify_daraja_error(kind: Kind, status: int, code: str, text: str) -> ProviderError:
    """Classify an error in Daraja's own envelope."""
    if (code == "500.003.02" and "system is busy" in text.lower()) or _MAINTENANCE.search(text):
        # A resend after this answer is safe only if Daraja refuses the second use of the payment's
        # id, because Daraja may have acted.
        return Resendable(code=code) if RULES[kind].can_be_sent_again else OutcomeUnknown(code=code)
    failure = _classify_refusal(kind, status, code, text)
    return Refused(failure) if failure else OutcomeUnknown(code=code)


def _classify_other_error(status: int, body: bytes, code: str | None) -> ProviderError:
    """Classify an answer that is not in Daraja's envelope.

    Such an answer is a refusal only if its status refuses the request, and its body has no trace of
    a payment.
    """
    shown_code = code if code is not None and _SHOWABLE_CODE.fullmatch(code) else None
    if status in _REFUSING_STATUSES and not may_have_payment_trace(body):
        if _INVALID_TOKEN.search(body.decode("utf-8", "replace")):
            return TokenRefused(code=shown_code)
        return Refused(
            Failure(FailureReason.REJECTED_BY_PROVIDER, False, shown_code), f"refused with {status}"
        )
    return OutcomeUnknown(f"status {status} without an answer that we know", code=code)


def _is_throttled(status: int, code: str | None, text: str) -> bool:
    if status == 429 or (code or "").startswith("policies.ratelimit."):
        return True
    return (code == "500.003.02" and "spike arrest" in text.lower()) or code == "500.003.03"


def _classify_refusal(kind: Kind, status: int, code: str, text: str) -> Failure | None:
    """Return the failure if the error is a definite refusal, else None.

    A redirect is never a definite refusal.
    """
    if 300 <= status < 400:
        return None
    if code == "400.002.02":
        if _LIMIT_RULE.search(text):
            return Failure(FailureReason.LIMIT_EXCEEDED, True, code)
        return Failure(
            find_field_reason(kind, text) or FailureReason.REJECTED_BY_PROVIDER, True, code
        )
    # Daraja uses this code for many situations, so the text decides (daraja.md §2.2).
    if code == "500.001.1001":
        words = text.lower()
        if "wrong credentials" in words or "merchant does not exist" in words:
            return Failure(FailureReason.CONFIGURATION, True, code)
        if "unable to lock subscriber" in words:
            return Failure(FailureReason.SUBSCRIBER_BUSY, True, code)
        if "limit rule" in words:
            return Failure(FailureReason.LIMIT_EXCEEDED, True, code)
        return None
    if 400 <= status < 500 and status not in _AMBIGUOUS_STATUSES and code.startswith("4"):
        return Failure(find_field_reason(kind, text) or FailureReason.CONFIGURATION, True, code)
    return None


def _searchable_text(body: bytes, message: Mapping[str, Any] | None) -> str:
    """Return the raw body and the decoded error text, to search them for known words."""
    return f"{body.decode('utf-8', 'replace')} {_read_code_and_text(message)[1]}"


def _read_code_and_text(message: Mapping[str, Any] | None) -> tuple[str | None, str]:
    """Return the code and the text of an error envelope.

    The envelope is Daraja's own, or the raw fault of the server in front of Daraja (daraja.md
    §2.2).
    """
    if message is None:
        return None, ""
    if _is_storable_code(message.get("errorCode")):
        text = message.get("errorMessage")
        return message["errorCode"], text if isinstance(text, str) else ""
    fault = message.get("fault")
    detail = fault.get("detail") if isinstance(fault, dict) else None
    code = detail.get("errorcode") if isinstance(detail, dict) else None
    if isinstance(code, str) and _is_storable_code(code) and code.startswith("policies.ratelimit."):
        return code, ""
    return None, ""


def _is_storable_code(value: object) -> bool:
    """Whether `value` can be a code and can be stored unchanged.

    We never clean a code before we compare it, because the cleaned code might be one that we know.
    """
    return isinstance(value, str) and 0 < len(value) <= _CODE_LENGTH_MAX and value.isprintable()


def _is_html_page(body: bytes) -> bool:
    """Whether the body starts with an HTML tag, after optional comments and declarations."""
    text = body.decode("utf-8-sig", "replace").lstrip()
    for begin, end in list(_HTML_PREAMBLES.items()) * 3:
        if text.startswith(begin):
            text = text.partition(end)[2].lstrip()
    return _HTML_TAG.match(text) is not None


def parse_json_object(body: bytes) -> Mapping[str, Any] | None:
    """Parse `body` as a JSON object. Returns None if it is not one."""
    try:
        value = parse(body)
    except Unreadable:
        return None
    return value if isinstance(value, dict) else None
