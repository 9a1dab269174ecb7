"""Whose field a refusal names: the caller's, so that this payment is at fault, or ours, so that
every payment will fail.

Daraja says `Bad Request - Invalid <Field>` for both (daraja.md §2.2). Names are compared by their
letters only, because messages spell them `PhoneNumber`, `Phone Number` or `phone_number`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from domain.failures import FailureReason
from domain.kinds import RULES, Kind

_F = FailureReason

# What we put into a request from our settings, or by ourselves. A free text is the caller's, also
# where it was left out and our default went: one payment's strange text must not count as a fault
# of all, and ours is a plain word.
_OURS_EVERYWHERE = dict.fromkeys(
    (
        "callbackurl", "callback", "resulturl", "queuetimeouturl", "timeouturl",
        "businessshortcode", "shortcode", "password", "passkey", "timestamp", "transactiontype",
        "initiator", "initiatorname", "securitycredential", "credential", "credentials",
        "senderidentifiertype", "senderidentifier", "recieveridentifiertype", "receiveridentifiertype",
        "recieveridentifier", "receiveridentifier", "identifiertype", "identifiertypes", "identifier",
        "commandid", "command", "originatorconversationid", "originalconversationid", "conversationid",
        "occasion", "occassion", "accesstoken", "authorization", "authenticationheader", "contenttype", "granttype",
        "consumerkey", "consumersecret", "organizationshortcode",
    ),
    _F.CONFIGURATION,
)  # fmt: skip
_CALLERS_EVERYWHERE = {
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
_PAYS_OUT = {
    "partya": _F.CONFIGURATION,  # our short code
    "partyb": _F.INVALID_RECIPIENT,
    "receiver": _F.INVALID_RECIPIENT,
    "receiverparty": _F.INVALID_RECIPIENT,
    "receivershortcode": _F.INVALID_RECIPIENT,
    "recipient": _F.INVALID_RECIPIENT,
}
_COLLECTS = {
    "partya": _F.INVALID_RECIPIENT,  # the customer's phone
    "partyb": _F.CONFIGURATION,  # our short code, or our till
    "receiver": _F.CONFIGURATION,
    "receiverparty": _F.CONFIGURATION,
}
_EVERYWHERE = {**_OURS_EVERYWHERE, **_CALLERS_EVERYWHERE}
_REASONS: Mapping[Kind, Mapping[str, FailureReason]] = {
    kind: {**_EVERYWHERE, **(_PAYS_OUT if rules.moves_money_out else _COLLECTS)}
    for kind, rules in RULES.items()
}

_WORD = re.compile(r"[A-Za-z]+")
_CHARACTERS_MAX = 500  # of a message; a hostile one may be long
_WORDS_OF_NAME_MAX = 4


def reason_of_named_field(kind: Kind, text: str) -> FailureReason | None:
    """The reason by the first field that `text` names, behind its "invalid" if it can be; None
    if it names none we know.
    """
    words = [word.lower() for word in _WORD.findall(text[:_CHARACTERS_MAX])]
    behind = words[words.index("invalid") + 1 :] if "invalid" in words else []
    return _first_named(_REASONS[kind], behind) or _first_named(_REASONS[kind], words)


def _first_named(reasons: Mapping[str, FailureReason], words: list[str]) -> FailureReason | None:
    for start in range(len(words)):
        for length in range(min(_WORDS_OF_NAME_MAX, len(words) - start), 0, -1):
            reason = reasons.get("".join(words[start : start + length]))
            if reason is not None:
                return reason
    return None
