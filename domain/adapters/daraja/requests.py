"""What requests to Daraja have in common. What a kind's own request holds stands on its page
(`deposit.py`, …).

Amounts are strings, as in the portal's own samples: a server that follows those refuses a JSON
number.
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

# The type of an identifier that is a short code (daraja.md §5).
SHORTCODE_TYPE = "4"

# Daraja lets a request with `@`, `#` or `&` in a text fail without a word (daraja.md §2.2).
_NOT_FREE_TEXT = re.compile(r"[^A-Za-z0-9.-]+")
_ALPHANUMERIC = re.compile(r"[A-Za-z0-9]")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestSettings:
    """Who we are to Daraja."""

    shortcode: str
    passkey: str
    till: str | None
    payout_shortcode: str
    initiator_name: str
    callback_base_url: str
    callback_secret: str


def use_short_code_of(settings: RequestSettings, sent_by: Account | None) -> RequestSettings:
    """`settings` with the short code of the account that sent a payment, to ask about that
    payment.
    """
    if sent_by is None:
        return settings
    return replace(settings, shortcode=sent_by.shortcode, payout_shortcode=sent_by.shortcode)


@dataclass(frozen=True, slots=True)
class Api:
    """One of Daraja's calls.

    `acknowledgement_id` names the id without which an acknowledgement is none.
    """

    operation: Operation
    path: str
    acknowledgement_id: str

    @property
    def name(self) -> str:
        """As our records have it."""
        return self.operation.value


def clean_free_text(text: str | None, shortest: int, longest: int) -> str:
    """`text` in letters, digits, blank, `.` and `-`, within Daraja's limits; the default if too
    little is left.
    """
    plain = "".join(
        character
        for character in unicodedata.normalize("NFKD", text or "")
        if not unicodedata.combining(character)
    )
    reduced = _NOT_FREE_TEXT.sub(" ", plain).strip()[:longest].rstrip()
    return reduced if len(reduced) >= shortest and _ALPHANUMERIC.search(reduced) else DEFAULT_TEXT


def password_fields(settings: RequestSettings, now: datetime) -> dict[str, Any]:
    """What stands for a credential in STK push and STK query (daraja.md §2.1)."""
    # Daraja checks only that timestamp and password agree (daraja.md §2.1).
    timestamp = now.astimezone(NAIROBI).strftime("%Y%m%d%H%M%S")
    password = base64.b64encode(
        f"{settings.shortcode}{settings.passkey}{timestamp}".encode()
    ).decode()
    return {"BusinessShortCode": settings.shortcode, "Password": password, "Timestamp": timestamp}


def result_addresses(payment: Payment, settings: RequestSettings) -> dict[str, Any]:
    """Where Daraja sends a payout's result, and its word that its queue is slow."""
    assert payment.rules.timeout_operation is not None  # noqa: S101 - every payout has one
    return {
        "QueueTimeOutURL": message_address(payment, settings, payment.rules.timeout_operation),
        "ResultURL": message_address(payment, settings, payment.rules.result_operation),
    }


def message_address(payment: Payment, settings: RequestSettings, operation: str) -> str:
    """The address for messages of `operation` about `payment`, with the token by which we
    believe them.
    """
    return callback_address.make_address(
        settings.callback_base_url, settings.callback_secret, payment.id, operation
    )
