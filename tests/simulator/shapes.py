"""Identifiers, times and envelopes in the shapes that Daraja gives them (daraja.md §2.2).

Promises that every identifier is new within one run and that times are Nairobi's. Knows no API:
those build on this.
"""

import itertools
import json
import random
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

NAIROBI = timezone(
    timedelta(hours=3), "EAT"
)  # no daylight saving; identifiers carry this time (§2.2)
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
RECEIPTS = 36**7  # a receipt is three characters of date and seven of these (§2.2)
RECEIPT_STEP = 48_271_313_969  # coprime to 36, so that the sequence visits every receipt once


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP answer; `cut` means that the connection is reset in its place."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    location: str | None = None
    cut: bool = False


CUT = Reply(status=0, cut=True)


def reply(body: Mapping[str, object], *, status: int = 200) -> Reply:
    """A JSON answer."""
    return Reply(status, json.dumps(body).encode())


def nairobi_now() -> datetime:
    """The time that Daraja writes into identifiers and results."""
    return datetime.now(NAIROBI)


def digits_of(moment: datetime) -> str:
    """A moment as `YYYYMMDDHHmmss`."""
    return moment.strftime("%Y%m%d%H%M%S")


def iso(moment: datetime) -> str:
    """A moment for people who read the control API."""
    return moment.isoformat(timespec="milliseconds")


class Identities:
    """Makes identifiers: a node's name and a sequence, as recorded ones look (§2.2)."""

    def __init__(self) -> None:
        self._node = str(uuid.uuid4()).split("-", 1)[1]
        self._sequence = itertools.count(random.randrange(10_000, 900_000))
        self._receipt = itertools.count(random.randrange(RECEIPTS))
        self._checkouts: dict[str, int] = {}  # line → the tenth of a second that it was given last

    def request_id(self) -> str:
        """A MerchantRequestID, an assigned OriginatorConversationID, or an error's `requestId`."""
        return f"{self._node}{next(self._sequence)}"

    def checkout_request_id(self, phone_number: str) -> str:
        """`ws_CO_`, Nairobi time, one digit of fraction, the national number.

        One digit leaves ten a second for one line, so a taken one moves on by a tenth.
        """
        moment = nairobi_now()
        tenth = max(int(moment.timestamp() * 10), self._checkouts.get(phone_number, 0) + 1)
        self._checkouts[phone_number] = tenth
        moment = datetime.fromtimestamp(tenth // 10, NAIROBI)
        return f"ws_CO_{moment.strftime('%d%m%Y%H%M%S')}{tenth % 10}{phone_number[-9:]}"

    def conversation_id(self) -> str:
        """`AG_`, the date, twenty hexadecimal digits of which the recent ones begin with 2010."""
        return f"AG_{nairobi_now():%Y%m%d}_2010{random.getrandbits(64):016x}"

    def receipt(self) -> str:
        """Ten characters of which the first three say the day; never given twice."""
        suffix = "0"
        while suffix.isdigit():  # seven digits are a placeholder's form (§4.3)
            number = next(self._receipt) * RECEIPT_STEP % RECEIPTS
            suffix = ""
            for _ in range(7):
                number, digit = divmod(number, 36)
                suffix += DIGITS[digit]
        return date_prefix(nairobi_now()) + suffix

    def error(self, status: int, code: str, message: str) -> Reply:
        """Daraja's error envelope (§2.2)."""
        return reply(
            {"requestId": self.request_id(), "errorCode": code, "errorMessage": message},
            status=status,
        )


def date_prefix(moment: datetime) -> str:
    """The year from L for 2017, the month from A, the day from 1 to 9 and then from A."""
    return chr(ord("L") + moment.year - 2017) + DIGITS[9 + moment.month] + DIGITS[moment.day]


def placeholder_receipt(moment: datetime) -> str:
    """What a failed request carries where a receipt would be: zeros, or a count (§2.2, §4.3)."""
    return date_prefix(moment) + random.choice(("0000000", f"{random.randrange(10_000_000):07d}"))
