"""Reading Daraja's synchronous answers: an acknowledgement's ids, or the one error class that says
what it means.

This is the only place that classifies (rules.md §13). What is not
named here may have acted: `OutcomeUnknown`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from domain.adapters.daraja.messages import is_provider_id
from domain.adapters.daraja.refused_fields import reason_of_named_field
from domain.adapters.daraja.requests import Api
from domain.adapters.daraja.result_codes import SUCCESS_CODE, code_text
from domain.adapters.daraja.traces import may_show_payment, shows_id
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

# Daraja says "your token is not valid" in four ways, by API, and by any 401 (daraja.md §1).
_TOKEN_CODES = frozenset({"404.001.03", "401.002.01", "401.003.01", "400.003.01"})

ID_NAMES = {
    "CheckoutRequestID": IdKind.CHECKOUT_REQUEST,
    "MerchantRequestID": IdKind.MERCHANT_REQUEST,
    "ConversationID": IdKind.CONVERSATION,
    "OriginatorConversationID": IdKind.ORIGINATOR_CONVERSATION,
}

# How long Daraja's own limiter makes us wait at least; its sandbox counts by the minute, production
# by the second.
_THROTTLED_WAIT_SECONDS = 2.0

# Daraja's own error codes, as in `405.001` and `400.002.02`. What stands in front of it has others,
# or none.
_DARAJA_CODE = re.compile(r"\d{2,3}(\.\d{2,4}){1,2}", re.ASCII)
_CODE_LENGTH_MAX = 80

# With one of these a request is refused before anything is done, whatever the envelope (daraja.md
# §2.2). Not among them: 408 and 409 may follow something that was done, and what else exists was
# never seen of Daraja.
_REFUSING_STATUSES = frozenset({400, 404, 405, 411, 413, 414, 415, 422})
_MAY_FOLLOW_AN_EFFECT = frozenset({408, 409})
_CODE_OF_OTHERS = re.compile(
    r"[A-Za-z0-9._-]{1,24}"
)  # what may be shown of an envelope that we do not know

_FORBIDDEN_PRODUCT = "403.002.1001"
_NO_PRODUCT = re.compile(r"no\s{0,3}api\s{0,3}product\s{0,3}match", re.IGNORECASE)
_DUPLICATE = re.compile(r"duplicate[\s_-]{0,3}originator[\s_-]{0,3}conversation", re.IGNORECASE)
_INVALID_TOKEN = re.compile(r"(invalid|expired)[\s_-]{0,3}access[\s_-]{0,3}token", re.IGNORECASE)
_PAGE = re.compile(r"<(!doctype\s{1,9}html|html|head|body|title|meta|center|h1)\b", re.IGNORECASE)
_PREAMBLES = {"<?": "?>", "<!--": "-->"}

_LIMIT_RULE = re.compile(r"limit rule", re.IGNORECASE)
_MAINTENANCE = re.compile(r"under maintenance|maintenance", re.IGNORECASE)


def read_answer(api: Api, kind: Kind, status: int, body: bytes) -> ProviderIds:
    """The ids of an acknowledgement. Raises the `ProviderError` that the answer means."""
    message = json_object(body)
    if message is not None and 200 <= status < 300 and "errorCode" not in message:
        return _acknowledgement(api, message)
    if message is not None and shows_id(message):
        raise OutcomeUnknown(
            f"status {status} with an acknowledgement: a refusal and its opposite in one"
        )
    raise _error(kind, status, body, message)


def refused_at_the_door(
    status: int, body: bytes, message: Mapping[str, Any] | None
) -> tuple[str | None, str]:
    """Daraja's code and text, unless it did not look at the question: TokenRefused,
    ProductRefused or Throttled then.
    """
    code, text = _code_and_text(message)
    if (status >= 400 or (code is not None and status < 300)) and _NO_PRODUCT.search(
        _words(body, message)
    ):
        raise ProductRefused("our app lacks this product", code=code or str(status))
    if code == _FORBIDDEN_PRODUCT and 400 <= status < 500:
        raise ProductRefused("our app may not use this operation", code=code)
    if status == 403 and _is_page(body) and not may_show_payment(body):
        raise ProductRefused("a firewall in front of Daraja answered", code="403")
    if code in _TOKEN_CODES or status == 401:
        raise TokenRefused(code=code or "401")
    if _is_throttled(status, code, text):
        raise Throttled(code=code or "429", wait_seconds=_THROTTLED_WAIT_SECONDS)
    return code, text


def _acknowledgement(api: Api, message: Mapping[str, Any]) -> ProviderIds:
    if "duplicate originatorconversationid" in str(message.get("ResponseDescription")).lower():
        raise DuplicateSubmission(code=code_text(message.get("ResponseCode")))
    if code_text(message.get("ResponseCode")) != SUCCESS_CODE or not is_provider_id(
        message.get(api.acknowledgement_id)
    ):
        raise OutcomeUnknown("the answer is no acknowledgement that we know")
    return frozenset(
        (ID_NAMES[name], message[name]) for name in ID_NAMES if is_provider_id(message.get(name))
    )


def _error(
    kind: Kind, status: int, body: bytes, message: Mapping[str, Any] | None
) -> ProviderError:
    if _DUPLICATE.search(
        _words(body, message)
    ):  # whatever the code and the status: an earlier send may have paid
        return DuplicateSubmission(code=_code_and_text(message)[0])
    try:
        code, text = refused_at_the_door(status, body, message)
    except (TokenRefused, ProductRefused, Throttled) as refusal:
        return refusal
    if code is not None and _DARAJA_CODE.fullmatch(code):
        return _error_of_daraja(kind, status, code, text)
    return _error_of_others(status, body, code)


def _error_of_daraja(kind: Kind, status: int, code: str, text: str) -> ProviderError:
    """What an error in Daraja's own envelope means."""
    if (code == "500.003.02" and "system is busy" in text.lower()) or _MAINTENANCE.search(text):
        # What has no id whose second use Daraja refuses must not be sent again on this word.
        return Resendable(code=code) if RULES[kind].can_be_sent_again else OutcomeUnknown(code=code)
    failure = _refusal(kind, status, code, text)
    return Refused(failure) if failure else OutcomeUnknown(code=code)


def _error_of_others(status: int, body: bytes, code: str | None) -> ProviderError:
    """What an answer in no envelope of Daraja's means: by its status alone, and only if it shows
    nothing of a payment.
    """
    shown_code = code if code is not None and _CODE_OF_OTHERS.fullmatch(code) else None
    if status in _REFUSING_STATUSES and not may_show_payment(body):
        if _INVALID_TOKEN.search(body.decode("utf-8", "replace")):
            return TokenRefused(code=shown_code)
        return Refused(
            Failure(FailureReason.REJECTED_BY_PROVIDER, False, shown_code), f"refused with {status}"
        )
    return OutcomeUnknown(f"status {status} without an error that we know", code=code)


def _is_throttled(status: int, code: str | None, text: str) -> bool:
    if status == 429 or (code or "").startswith("policies.ratelimit."):
        return True
    return (code == "500.003.02" and "spike arrest" in text.lower()) or code == "500.003.03"


def _refusal(kind: Kind, status: int, code: str, text: str) -> Failure | None:
    """The failure of a definite no; None where the words are not known to be one, or a redirect
    came with them.
    """
    if 300 <= status < 400:
        return None
    if code == "400.002.02":
        if _LIMIT_RULE.search(text):
            return Failure(FailureReason.LIMIT_EXCEEDED, True, code)
        return Failure(
            reason_of_named_field(kind, text) or FailureReason.REJECTED_BY_PROVIDER, True, code
        )
    if code == "500.001.1001":  # one code, many meanings: the text decides (daraja.md §2.2)
        words = text.lower()
        if "wrong credentials" in words or "merchant does not exist" in words:
            return Failure(FailureReason.CONFIGURATION, True, code)
        if "unable to lock subscriber" in words:
            return Failure(FailureReason.SUBSCRIBER_BUSY, True, code)
        if "limit rule" in words:
            return Failure(FailureReason.LIMIT_EXCEEDED, True, code)
        return None
    if 400 <= status < 500 and status not in _MAY_FOLLOW_AN_EFFECT and code.startswith("4"):
        return Failure(reason_of_named_field(kind, text) or FailureReason.CONFIGURATION, True, code)
    return None


def _words(body: bytes, message: Mapping[str, Any] | None) -> str:
    """All that an answer says, in whatever envelope: as it came, and its text as JSON means it."""
    return f"{body.decode('utf-8', 'replace')} {_code_and_text(message)[1]}"


def _code_and_text(message: Mapping[str, Any] | None) -> tuple[str | None, str]:
    """Daraja's own error envelope, or the raw fault of the gateway in front of it (daraja.md
    §2.2).
    """
    if message is None:
        return None, ""
    if _is_code(message.get("errorCode")):
        text = message.get("errorMessage")
        return message["errorCode"], text if isinstance(text, str) else ""
    fault = message.get("fault")
    detail = fault.get("detail") if isinstance(fault, dict) else None
    code = detail.get("errorcode") if isinstance(detail, dict) else None
    if isinstance(code, str) and _is_code(code) and code.startswith("policies.ratelimit."):
        return code, ""
    return None, ""


def _is_code(value: object) -> bool:
    """Whether `value` can be a code, and can be kept as one: cleaned of what cannot, it might
    become one that we know.
    """
    return isinstance(value, str) and 0 < len(value) <= _CODE_LENGTH_MAX and value.isprintable()


def _is_page(body: bytes) -> bool:
    """Whether it is HTML: a tag of a page comes first, but for comments and the like."""
    text = body.decode("utf-8-sig", "replace").lstrip()
    for begin, end in list(_PREAMBLES.items()) * 3:
        if text.startswith(begin):
            text = text.partition(end)[2].lstrip()
    return _PAGE.match(text) is not None


def json_object(body: bytes) -> Mapping[str, Any] | None:
    """`body` as the JSON object that it is, or None."""
    try:
        value = parse(body)
    except Unreadable:
        return None
    return value if isinstance(value, dict) else None
