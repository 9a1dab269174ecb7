"""Identifiers, times and envelopes in Daraja's shapes (daraja.md §2.2).

Every identifier is unique within one run, and times are Nairobi's. This module knows no API.
"""

import itertools
import json
import random
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

# Nairobi has no daylight saving. Identifiers contain this time (§2.2).
NAIROBI = timezone(timedelta(hours=3), "EAT")
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
RECEIPTS = 36**7  # a receipt is three characters of date and seven of these (§2.2)
RECEIPT_STEP = 48_271_313_969  # coprime to 36, so the sequence has every receipt once


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP answer. With `cut` the connection is reset instead."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    location: str | None = None
    cut: bool = False


CUT = Reply(status=0, cut=True)


def reply(body: Mapping[str, object], *, status: int = 200) -> Reply:
    """Return a JSON answer."""
    return Reply(status, json.dumps(body).encode())


def nairobi_now() -> datetime:
    """Return the time that Daraja writes into identifiers and results."""
    return datetime.now(NAIROBI)


def format_timestamp(moment: datetime) -> str:
    """Format a moment as `YYYYMMDDHHmmss`."""
    return moment.strftime("%Y%m%d%H%M%S")


def format_iso(moment: datetime) -> str:
    """Format a moment for readers of the control API."""
    return moment.isoformat(timespec="microseconds")


class Identities:
    """Creates identifiers of a node's name and a sequence, as the recorded ones (§2.2)."""

    def __init__(self) -> None:
        self._node = str(uuid.uuid4()).split("-", 1)[1]
        self._sequence = itertools.count(random.randrange(10_000, 900_000))
        self._receipt = itertools.count(random.randrange(RECEIPTS))
        self._checkouts: dict[str, int] = {}  # by phone number: the last used tenth of a second

    def request_id(self) -> str:
        """Create a MerchantRequestID, OriginatorConversationID, or an error's `requestId`."""
        return f"{self._node}{next(self._sequence)}"

    def checkout_request_id(self, phone_number: str) -> str:
        """Create `ws_CO_`, Nairobi time, one digit of fraction, the national number.

        One digit allows ten ids a second for one phone number. If a tenth is used, the next one is
        chosen.
        """
        moment = nairobi_now()
        tenth = max(int(moment.timestamp() * 10), self._checkouts.get(phone_number, 0) + 1)
        self._checkouts[phone_number] = tenth
        moment = datetime.fromtimestamp(tenth // 10, NAIROBI)
        return f"ws_CO_{moment.strftime('%d%m%Y%H%M%S')}{tenth % 10}{phone_number[-9:]}"

    def conversation_id(self) -> str:
        """Create `AG_`, the date, and twenty hexadecimal digits that begin with 2010."""
        return f"AG_{nairobi_now():%Y%m%d}_2010{random.getrandbits(64):016x}"

    def receipt(self) -> str:
        """Create a receipt of ten characters, never twice. The first three encode the day."""
        suffix = "0"
        while suffix.isdigit():  # seven digits are the form of a placeholder (§4.3)
            number = next(self._receipt) * RECEIPT_STEP % RECEIPTS
            suffix = ""
            for _ in range(7):
                number, digit = divmod(number, 36)
                suffix += DIGITS[digit]
        return date_prefix(nairobi_now()) + suffix

    def error(self, status: int, code: str, message: str) -> Reply:
        """Return Daraja's error envelope (§2.2)."""
        return reply(
            {"requestId": self.request_id(), "errorCode": code, "errorMessage": message},
            status=status,
        )


def invalid_field(field: str, ids: Identities) -> Reply:
    """Return the answer to an invalid field (§2.2)."""
    return ids.error(400, "400.002.02", f"Bad Request - Invalid {field}")


def date_prefix(moment: datetime) -> str:
    """Encode a date: the year from L for 2017, the month from A, the day from 1 to 9, then A."""
    return chr(ord("L") + moment.year - 2017) + DIGITS[9 + moment.month] + DIGITS[moment.day]


def placeholder_receipt(moment: datetime) -> str:
    """Return a failed request's placeholder for a receipt: zeros or a count (§2.2, §4.3)."""
    return date_prefix(moment) + random.choice(("0000000", f"{random.randrange(10_000_000):07d}"))
