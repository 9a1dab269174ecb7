"""The common parts of requests to Daraja. Each kind's own module (`deposit.py`, …) has the rest.

Amounts are strings, as in the portal's own samples. A server that follows those samples refuses a
JSON number (daraja.md §2.1).
"""

from __future__ import annotations

import base64
import re
import unicodedata
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from domain import callback_address
from domain.account import Account
from domain.operations import Operation
from domain.payment import Payment
from domain.values import DEFAULT_TEXT, NAIROBI

# The identifier type of a short code (daraja.md §5).
SHORTCODE_TYPE = "4"

# A request with `@`, `#` or `&` in a text fails without an error message (daraja.md §2.2).
_NOT_FREE_TEXT = re.compile(r"[^A-Za-z0-9.-]+")
_ALPHANUMERIC = re.compile(r"[A-Za-z0-9]")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSettings:
    """Those of our settings that a request to Daraja contains."""

    shortcode: str
    passkey: str
    till: str | None
    payout_shortcode: str
    initiator_name: str
    callback_base_url: str
    callback_secret: str


def use_short_code_of(settings: RequestSettings, sent_by: Account | None) -> RequestSettings:
    """Return `settings` with the short code that sent a payment, to inquire about that payment."""
    if sent_by is None:
        return settings
    return replace(settings, shortcode=sent_by.shortcode, payout_shortcode=sent_by.shortcode)


@dataclass(frozen=True, slots=True)
class Api:
    """One of Daraja's APIs.

    `acknowledgement_id` names the id that every acknowledgement must have.
    """

    operation: Operation
    path: str
    acknowledgement_id: str

    @property
    def name(self) -> str:
        """The name of this API in our records."""
        return self.operation.value


def clean_free_text(text: str | None, shortest: int, longest: int) -> str:
    """Reduce `text` to letters, digits, blank, `.` and `-`, within Daraja's limits.

    Returns the default text if fewer than `shortest` characters remain, or no letter or digit.
    """
    plain = text or ""
    if not plain.isascii():
        plain = "".join(
            character
            for character in unicodedata.normalize("NFKD", plain)
            if not unicodedata.combining(character)
        )
    reduced = _NOT_FREE_TEXT.sub(" ", plain).strip()[:longest].rstrip()
    return reduced if len(reduced) >= shortest and _ALPHANUMERIC.search(reduced) else DEFAULT_TEXT


def password_fields(settings: RequestSettings, now: datetime) -> dict[str, Any]:
    """Return the fields that authenticate STK push and STK query (daraja.md §2.1)."""
    # Daraja checks only that timestamp, password and short code agree (daraja.md §2.1).
    timestamp = now.astimezone(NAIROBI).strftime("%Y%m%d%H%M%S")
    password = base64.b64encode(
        f"{settings.shortcode}{settings.passkey}{timestamp}".encode()
    ).decode()
    return {"BusinessShortCode": settings.shortcode, "Password": password, "Timestamp": timestamp}


def result_addresses(payment: Payment, settings: RequestSettings) -> dict[str, Any]:
    """Return the addresses for a payout's result and for its queue timeout message."""
    assert payment.rules.timeout_operation is not None  # noqa: S101 - every payout has one
    return {
        "QueueTimeOutURL": message_address(payment, settings, payment.rules.timeout_operation),
        "ResultURL": message_address(payment, settings, payment.rules.result_operation),
    }


def message_address(payment: Payment, settings: RequestSettings, operation: str) -> str:
    """Return the address for messages of `operation` about `payment`.

    The address ends with a secret token, which proves that a message comes from Daraja (daraja.md
    §8.2).
    """
    return callback_address.make_address(
        settings.callback_base_url, settings.callback_secret, payment.id, operation
    )
