"""The cursors of our lists: how each looks, is written, and is read. Callers send them back as they
came.

`/openapi.json` shows the patterns, so pattern, writer and reader stand together. A reader refuses
every text that does not match, so a cursor of one list is no cursor of another. All readers raise
ValueError.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

# In the words that every dialect of patterns has, and without flags. Every text that matches can be
# read.
PAGE = re.compile(r"payments-(0|[1-9][0-9]{0,15})-([0-9a-f]{32})-([0-9a-f]{16})")
FEED = re.compile(r"events-(0|[1-9][0-9]{0,17}-[0-9a-f]{12})")
HISTORY = re.compile(r"history-([1-9][0-9]{0,8})-([0-9a-f]{32})")

OF_ANOTHER_LIFE = (
    "names an event that this database does not have: it was restored, or failed over without its last commits. Read again "
    "without this cursor, and leave out the events whose ids you have"
)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class PagePlace:
    """Behind which payment a page begins, and the mark of the filters that the cursor was given
    for.
    """

    created_at: datetime
    payment_id: UUID
    filters: str


@dataclass(frozen=True, slots=True)
class FeedPlace:
    """Behind which event the feed continues. `mark` tells that event from others that had its
    position in another life of the database. None: the beginning.
    """

    position: int = 0
    mark: str | None = None


@dataclass(frozen=True, slots=True)
class HistoryPlace:
    """Behind which entry of which payment's history a page begins."""

    sequence: int
    payment_id: UUID


def page_cursor(place: PagePlace) -> str:
    """The cursor of GET /v1/payments. `filters` is 16 hexadecimal digits."""
    microseconds = (place.created_at - _EPOCH) // _MICROSECOND
    return f"payments-{microseconds}-{place.payment_id.hex}-{place.filters}"


def page_place(cursor: str) -> PagePlace:
    """The place that `page_cursor` wrote."""
    found = _match(PAGE, cursor)
    return PagePlace(_EPOCH + int(found[1]) * _MICROSECOND, UUID(found[2]), found[3])


def feed_cursor(place: FeedPlace) -> str:
    """The cursor of GET /v1/events: it continues behind `place`.

    The mark is 12 hexadecimal digits.
    """
    return "events-0" if place.mark is None else f"events-{place.position}-{place.mark}"


def feed_place(cursor: str) -> FeedPlace:
    """The place that `feed_cursor` wrote."""
    position, _, mark = _match(FEED, cursor)[1].partition("-")
    return FeedPlace(int(position), mark) if mark else FeedPlace()


def history_cursor(place: HistoryPlace) -> str:
    """The cursor of GET /v1/payments/{payment_id}/history."""
    return f"history-{place.sequence}-{place.payment_id.hex}"


def history_place(cursor: str) -> HistoryPlace:
    """The place that `history_cursor` wrote."""
    found = _match(HISTORY, cursor)
    return HistoryPlace(int(found[1]), UUID(found[2]))


def _match(pattern: re.Pattern[str], cursor: str) -> re.Match[str]:
    found = pattern.fullmatch(cursor)
    if found is None:
        raise ValueError("is not a cursor that we gave")
    return found
