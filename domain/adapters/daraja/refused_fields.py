"""Finds out whether a refusal names a field of the caller or a field of our settings.

A wrong field of the caller fails one payment. A wrong setting of ours fails every payment. Daraja
answers `Bad Request - Invalid <Field>` to both (daraja.md §2.2). Names are compared by their
letters only, because messages spell them `PhoneNumber`, `Phone Number` or `phone_number`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from domain.failures import FailureReason
from domain.kinds import RULES, Kind

_F = FailureReason

# Fields that we fill from our settings or compute. A free text is not one of them, although we send
# a default if the caller gave no text. The default is a plain word. If Daraja refuses a text, it is
# therefore a caller's, and must not count as a fault of all payments.
_OUR_FIELDS = dict.fromkeys(
    (
        "callbackurl", "callback", "resulturl", "queuetimeouturl", "timeouturl",
        "businessshortcode", "shortcode", "password", "passkey", "timestamp", "transactiontype",
        "initiator", "initiatorname", "securitycredential", "credential", "credentials",
        "senderidentifiertype", "senderidentifier",
        "recieveridentifiertype", "receiveridentifiertype",
        "recieveridentifier", "receiveridentifier",
        "identifiertype", "identifiertypes", "identifier", "commandid", "command",
        "originatorconversationid", "originalconversationid", "conversationid",
        "occasion", "occassion", "accesstoken", "authorization", "authenticationheader",
        "contenttype", "granttype", "consumerkey", "consumersecret", "organizationshortcode",
    ),
    _F.CONFIGURATION,
)  # fmt: skip
_CALLER_FIELDS = {
    "amount": _F.LIMIT_EXCEEDED,
    "transactionamount": _F.LIMIT_EXCEEDED,
    "phonenumber": _F.INVALID_RECIPIENT,
    "phone": _F.INVALID_RECIPIENT,
    "msisdn": _F.INVALID_RECIPIENT,
    "accountreference": _F.REJECTED_BY_PROVIDER,
    "accountnumber": _F.REJECTED_BY_PROVIDER,
    "transactiondesc": _F.REJECTED_BY_PROVIDER,
    "transactiondescription": _F.REJECTED_BY_PROVIDER,
    "remarks": _F.REJECTED_BY_PROVIDER,
}
_PAYOUT_FIELDS = {
    "partya": _F.CONFIGURATION,  # our short code
    "partyb": _F.INVALID_RECIPIENT,
    "receiver": _F.INVALID_RECIPIENT,
    "receiverparty": _F.INVALID_RECIPIENT,
    "receivershortcode": _F.INVALID_RECIPIENT,
    "recipient": _F.INVALID_RECIPIENT,
}
_DEPOSIT_FIELDS = {
    "partya": _F.INVALID_RECIPIENT,  # the customer's phone
    "partyb": _F.CONFIGURATION,  # our short code, or our till
    "receiver": _F.CONFIGURATION,
    "receiverparty": _F.CONFIGURATION,
}
_COMMON_FIELDS = {**_OUR_FIELDS, **_CALLER_FIELDS}
_REASONS: Mapping[Kind, Mapping[str, FailureReason]] = {
    kind: {**_COMMON_FIELDS, **(_PAYOUT_FIELDS if rules.moves_money_out else _DEPOSIT_FIELDS)}
    for kind, rules in RULES.items()
}

_WORD = re.compile(r"[A-Za-z]+")
_CHARACTERS_MAX = 500  # a longer text is cut off, because it may be hostile
_NAME_WORDS_MAX = 4


def find_field_reason(kind: Kind, text: str) -> FailureReason | None:
    """Return the reason that belongs to the first known field in `text`, or None.

    A field after the word "invalid" outranks the fields before it.
    """
    words = [word.lower() for word in _WORD.findall(text[:_CHARACTERS_MAX])]
    words_after_invalid = words[words.index("invalid") + 1 :] if "invalid" in words else []
    return _find_first_reason(_REASONS[kind], words_after_invalid) or _find_first_reason(
        _REASONS[kind], words
    )


def _find_first_reason(
    reasons: Mapping[str, FailureReason], words: list[str]
) -> FailureReason | None:
    for start in range(len(words)):
        for length in range(min(_NAME_WORDS_MAX, len(words) - start), 0, -1):
            reason = reasons.get("".join(words[start : start + length]))
            if reason is not None:
                return reason
    return None
