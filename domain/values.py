"""The values of a payment, and the rules by which they are valid.

Pure. Every rule comes from the provider (`daraja.md`) or from the API (/openapi.json). If a value
breaks a rule, its parser raises a `ValueError`. The caller sees the error's text, which says what
to send instead.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta, timezone
from enum import StrEnum
from uuid import UUID

from domain.kinds import RULES, Kind, Reference


class Purpose(StrEnum):
    """Why a withdrawal is paid: Safaricom's fee and SMS text depend on it (daraja.md §4.1)."""

    BUSINESS = "business"
    SALARY = "salary"
    PROMOTION = "promotion"


class Role(StrEnum):
    """The role of a caller: a user of an app, or one of our own services."""

    USER = "authenticated"
    BACKEND = "service_role"


# Kenya has had UTC+3 without daylight saving time since 1960, so no time zone database is needed.
NAIROBI = timezone(timedelta(hours=3), "EAT")

# Daraja shows descriptions and remarks to people. It cuts or refuses a text that is longer than
# these limits (daraja.md §2.1, §4.1).
DESCRIPTION_LENGTH_MAX = 13
REMARKS_LENGTH = (2, 100)
METADATA_PAIRS_MAX = 20
# Of the reason that an operator gives, and of the operator's name.
REASON_LENGTH = (3, 500)
OPERATOR_LENGTH = (1, 100)
DEFAULT_TEXT = "Payment"

# /openapi.json prints these patterns too. They therefore use only syntax that every regular
# expression dialect has, and no flags.
PHONE_NUMBER = re.compile(r"(?:\+?254|0)([17][0-9]{8})")
SHORTCODE = re.compile(r"[0-9]{5,7}")
_BETWEEN_DIGITS = re.compile(r"[\s().-]")
STORABLE_TEXT = re.compile(r"[^\u0000]*")

# Only capital letters are valid. Otherwise two payments could have one receipt in two spellings.
_RECEIPT = re.compile(r"[A-Z0-9]{6,20}")

# For a request that failed, Daraja puts a date and a counter in the place of the receipt, for
# example `TK61000000` (daraja.md §4.3).
_PLACEHOLDER = re.compile(r"[A-Z][A-L][1-9A-V][0-9]{7}|.*0000000")

# Crockford's alphabet, without I, L, O and U. A person who hears a reference on the phone can
# therefore type it correctly.
_REFERENCE_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller that the token names. `key` is the scope of its idempotency keys."""

    issuer: str
    subject: str
    role: Role

    @property
    def is_backend(self) -> bool:
        return self.role is Role.BACKEND

    @property
    def key(self) -> str:
        return join_caller_key(self.issuer, self.subject)


def join_caller_key(issuer: str, subject: str) -> str:
    """Issuer and subject as one text. The length in front makes it unique for each pair."""
    return f"{len(issuer)}:{issuer}{subject}"


def split_caller_key(key: str) -> tuple[str, str]:
    """The issuer and the subject of a `Caller.key`."""
    length, _, names = key.partition(":")
    return names[: int(length)], names[int(length) :]


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentRequest:
    """What a caller asked for, after validation.

    `amount_kes` is in whole shillings. Texts are as the caller wrote them.
    """

    kind: Kind
    amount_kes: int
    owner: str | None
    phone_number: str | None = None
    paybill: str | None = None
    till: str | None = None
    account_reference: str | None = None
    description: str | None = None
    remarks: str | None = None
    purpose: Purpose | None = None
    metadata: dict[str, str] = field(default_factory=dict)


def parse_phone_number(text: str) -> str:
    """`text` as `2547XXXXXXXX` or `2541XXXXXXXX`.

    We use our own pattern and no library of numbering plans. Safaricom opens new ranges (three in
    August 2026, daraja.md §2.1) before these libraries know them, and the service must not reject a
    paying customer because of that (docs/adr/0004).
    """
    match = PHONE_NUMBER.fullmatch(text)
    if match is None:
        raise ValueError(
            "must be a Kenyan mobile number, as 07…, 01…, +254… or 254… "
            "with nine digits after the prefix"
        )
    return "254" + match[1]


def parse_written_phone_number(text: str) -> str:
    """The same for a number as people write it, with blanks, hyphens, dots and brackets."""
    return parse_phone_number(_BETWEEN_DIGITS.sub("", text))


def parse_amount_kes(value: object, kind: Kind) -> int:
    """`value` as whole shillings within the provider's limits for `kind`."""
    low, high = RULES[kind].amount_limits_kes
    # `isinstance` would accept a bool, because Python's bool is a subclass of int.
    if type(value) is not int:
        raise ValueError(
            f"must be a whole number of shillings, written as a JSON integer from {low} to {high}"
        )
    if not low <= value <= high:
        raise ValueError(f"must be from {low} to {high} shillings")
    return value


def parse_account_reference(text: str, rule: Reference) -> str:
    """`text` as a reference for the payer's statement, or as an account at a paybill."""
    if len(text) > rule.length_max or not rule.pattern.fullmatch(text):
        raise ValueError(f"must be 1 to {rule.length_max} {rule.in_words}")
    return text


def parse_shortcode(text: str) -> str:
    """`text` as a paybill or till number."""
    if not SHORTCODE.fullmatch(text):
        raise ValueError("must be 5 to 7 digits, as a string")
    return text


def parse_line(text: str, shortest: int, longest: int) -> str:
    """`text` as one line of printable characters, which every system on the way accepts."""
    if not shortest <= len(text) <= longest:
        raise ValueError(f"must be {shortest} to {longest} characters")
    if not text.strip() or any(not character.isprintable() for character in text):
        raise ValueError("must be one line of printable characters, and not blank")
    return text


def parse_reason(text: str) -> str:
    """`text` as an operator's reason, without white space around it."""
    return parse_line(text.strip(), *REASON_LENGTH)


def parse_operator(text: str) -> str:
    """`text` as an operator's name, without white space around it."""
    return parse_line(text.strip(), *OPERATOR_LENGTH)


def parse_storable_text(text: str) -> str:
    """`text` if PostgreSQL can store it: without NUL and without half of a surrogate pair."""
    if not STORABLE_TEXT.fullmatch(text) or any(
        "\ud800" <= character <= "\udfff" for character in text
    ):
        raise ValueError("must not contain NUL or unpaired surrogate characters")
    return text


def is_receipt(text: str) -> bool:
    """Whether `text` looks like an M-PESA receipt and is no placeholder (daraja.md §2.2)."""
    return _RECEIPT.fullmatch(text) is not None and _PLACEHOLDER.fullmatch(text) is None


def reference_from_id(payment_id: UUID) -> str:
    """Makes a reference of twelve letters and digits from the payment's id.

    A person can find the payment by the reference on a statement.

    The last 60 bits of a UUIDv7 are random, so two payments of one day almost never share a
    reference.
    """
    bits = payment_id.int & ((1 << 60) - 1)
    return "".join(_REFERENCE_ALPHABET[(bits >> shift) & 31] for shift in range(55, -1, -5))
