"""The cursors of our lists: pattern, writer and reader of each. Callers send them back unchanged.

`/openapi.json` shows the patterns, so pattern, writer and reader stand together. A reader rejects
every text that does not match its pattern, so the cursor of one list is not valid for another. All
readers raise ValueError.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

from domain.adapters.postgres.feed import FeedPlace

# These patterns use only syntax that every regex dialect has, and no flags. The readers accept
# every text that matches.
PAGE = re.compile(r"payments-(0|[1-9][0-9]{0,15})-([0-9a-f]{32})-([0-9a-f]{16})")
FEED = re.compile(r"events-(0|[1-9][0-9]{0,17}-[0-9a-f]{12})")
HISTORY = re.compile(r"history-([1-9][0-9]{0,8})-([0-9a-f]{32})")
DELIVERIES = re.compile(r"deliveries-([1-9][0-9]{0,17})-([0-9a-f]{32})")

# The detail for a cursor that was invented, or that is of another epoch of the database.
UNKNOWN_EVENT = (
    "names an event that this database does not have. Either this service did not return the "
    "cursor, or the database was restored, or a failover lost its last commits. Read again without "
    "this cursor, and skip the events whose ids you already have"
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class PagePlace:
    """The payment after which a page begins, and the hash of the filters of its list."""

    created_at: datetime
    payment_id: UUID
    filters: str


@dataclass(frozen=True, slots=True)
class HistoryPlace:
    """The payment, and the entry of its history, after which a page begins."""

    sequence: int
    payment_id: UUID


@dataclass(frozen=True, slots=True)
class DeliveryPlace:
    """The endpoint, and the number of its delivery, before which a page begins."""

    number: int
    endpoint_id: UUID


def page_cursor(place: PagePlace) -> str:
    """The cursor of GET /v1/payments. `filters` is 16 hexadecimal digits."""
    microseconds = (place.created_at - _EPOCH) // _MICROSECOND
    return f"payments-{microseconds}-{place.payment_id.hex}-{place.filters}"


def page_place(cursor: str) -> PagePlace:
    """Parses a cursor that `page_cursor` wrote."""
    match = _match(PAGE, cursor)
    return PagePlace(_EPOCH + int(match[1]) * _MICROSECOND, UUID(match[2]), match[3])


def feed_cursor(place: FeedPlace) -> str:
    """The cursor of GET /v1/events. `place.mark` is 12 hexadecimal digits."""
    return "events-0" if place.mark is None else f"events-{place.position}-{place.mark}"


def feed_place(cursor: str) -> FeedPlace:
    """Parses a cursor that `feed_cursor` wrote."""
    position, _, mark = _match(FEED, cursor)[1].partition("-")
    return FeedPlace(int(position), mark) if mark else FeedPlace()


def history_cursor(place: HistoryPlace) -> str:
    """The cursor of GET /v1/payments/{payment_id}/history."""
    return f"history-{place.sequence}-{place.payment_id.hex}"


def history_place(cursor: str) -> HistoryPlace:
    """Parses a cursor that `history_cursor` wrote."""
    match = _match(HISTORY, cursor)
    return HistoryPlace(int(match[1]), UUID(match[2]))


def delivery_cursor(place: DeliveryPlace) -> str:
    """The cursor of GET /v1/webhook-endpoints/{endpoint_id}/deliveries."""
    return f"deliveries-{place.number}-{place.endpoint_id.hex}"


def delivery_place(cursor: str) -> DeliveryPlace:
    """Parses a cursor that `delivery_cursor` wrote."""
    match = _match(DELIVERIES, cursor)
    return DeliveryPlace(int(match[1]), UUID(match[2]))


def _match(pattern: re.Pattern[str], cursor: str) -> re.Match[str]:
    match = pattern.fullmatch(cursor)
    if match is None:
        raise ValueError(
            "is not a cursor that this list returned. Send one back unchanged, or leave it out"
        )
    return match
