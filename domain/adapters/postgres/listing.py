"""The statements that read pages of payments, newest first.

PostgreSQL assumes that the payments that match lie evenly among the others. If all of them are old,
PostgreSQL would walk back through an index by time, and skip a million rows. So a statement here
compares and orders by *all* columns of one index. No other index has that order, so PostgreSQL must
use this one. If a kind or a status is not given, the page is merged from the newest payments of
each kind or status.

So a page costs the same at any depth, and reads a few rows for each that it returns. These pages
read more, but never the whole table:

* A filter by kind or status, together with a phone number or an account reference, reads the
  payments of that number or reference until the page is full.
* A filter by idempotency key, or by several of owner, phone number, reference and `needs_review`,
  reads all payments that match the rarest of these, by PostgreSQL's statistics. An owner's pending
  payments count as two filters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import product
from typing import Any
from uuid import UUID

from domain.adapters.postgres.statements import Statement, sql
from domain.kinds import Kind

# The statuses as SQL. `_SUCCEEDED` is a column of the indexes of final payments. Pending payments
# have an index of their own, in which finished payments cost nothing.
_IS_PENDING, _IS_FINAL = "finalized_at IS NULL", "finalized_at IS NOT NULL"
_SUCCEEDED = "(failure_reason IS NULL)"
_FINAL_STATUSES = {"success": "true", "failed": "false"}
_STATUSES = ("pending", *_FINAL_STATUSES)

# Columns with an index by their value and the time, and columns with an index by their value alone.
_BY_TIME = ("owner", "phone_number", "account_reference")
_WITHOUT_TIME = ("idempotency_key", "receipt")

_TIME = ("created_at", "id")
_Place = tuple[datetime, UUID]
_MOST_ID, _LEAST_ID = UUID(int=2**128 - 1), UUID(int=0)
_NEWEST: _Place = (datetime(9999, 12, 31, tzinfo=UTC), _MOST_ID)
_OLDEST: _Place = (datetime(1, 1, 1, tzinfo=UTC), _LEAST_ID)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageQuery:
    """Selects a page of payments, newest first.

    `equal` maps columns to required values. `older_than` is the last payment of the previous page.
    """

    equal: Mapping[str, Any]
    status: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    older_than: _Place | None = None
    limit: int = 20


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a page.

    * `leading`: the columns of an index before the time, with their values.
    * `conditions`: more conditions.
    * `has_index`: whether one index has the order of the page. If not, PostgreSQL looks for the
      rarest filter, and sorts what it finds.
    """

    leading: Mapping[str, str] = field(default_factory=dict)
    conditions: tuple[str, ...] = ()
    has_index: bool = True


def page_statement(query: PageQuery) -> tuple[Statement, dict[str, Any]]:
    """The statement that reads the page of `query`, and its parameters."""
    older_than = query.older_than or _NEWEST
    if query.created_before is not None:
        older_than = min(older_than, (query.created_before, _LEAST_ID))
    newer_than = (query.created_after, _MOST_ID) if query.created_after else _OLDEST
    parameters = {
        **query.equal,
        "older_than_time": older_than[0],
        "older_than_id": older_than[1],
        "newer_than_time": newer_than[0],
        "newer_than_id": newer_than[1],
        "limit": query.limit,
    }
    texts = [_select(part, query.equal) for part in _parts(query)]
    if len(texts) == 1:
        return sql(texts[0]), parameters
    merged = " UNION ALL ".join(f"({text})" for text in texts)
    text = f"SELECT * FROM ({merged}) AS page ORDER BY created_at DESC, id DESC LIMIT :limit"
    return sql(text), parameters


def _parts(query: PageQuery) -> list[_Part]:
    rare = [column for column in (*_BY_TIME, *_WITHOUT_TIME) if column in query.equal]
    needs_review = bool(query.equal.get("needs_review"))
    leading = {column: f":{column}" for column in rare}
    status = _conditions_of(query.status) if query.status else ()
    if len(rare) + needs_review > 1 or any(column in _WITHOUT_TIME for column in rare):
        return [_Part(conditions=status, has_index=False)]
    by_kind = not needs_review and rare in ([], ["owner"])
    kind = query.equal.get("kind")
    if not by_kind or (kind is None and query.status is None):
        return [_Part(leading, status)]
    kinds = [":kind"] if kind else [f"'{known.value}'" for known in Kind]
    parts = []
    for one_status, one_kind in product([query.status] if query.status else _STATUSES, kinds):
        columns = {**leading, "kind": one_kind}
        if one_status in _FINAL_STATUSES:
            columns[_SUCCEEDED] = _FINAL_STATUSES[one_status]
            parts.append(_Part(columns, (_IS_FINAL,)))
        elif rare:
            parts.append(_Part(conditions=(_IS_PENDING, f"kind = {one_kind}"), has_index=False))
        else:
            parts.append(_Part(columns, (_IS_PENDING,)))
    return parts


def _conditions_of(status: str) -> tuple[str, ...]:
    if status not in _FINAL_STATUSES:
        return (_IS_PENDING,)
    return (_IS_FINAL, f"{_SUCCEEDED} = {_FINAL_STATUSES[status]}")


def _select(part: _Part, equal: Mapping[str, Any]) -> str:
    columns = (*part.leading, *_TIME)
    place = ", ".join(columns)
    values = "".join(f"{value}, " for value in part.leading.values())
    conditions = [
        f"({place}) < ({values}:older_than_time, :older_than_id)",
        f"({place}) > ({values}:newer_than_time, :newer_than_id)",
        *part.conditions,
        # The partial indexes require this.
        *(f"{column} IS NOT NULL" for column in part.leading if column in _BY_TIME),
        *(f"{column} = :{column}" for column in equal if column not in part.leading),
    ]
    # The second form orders by a row value. No index has this order, so PostgreSQL sorts.
    order = (
        ", ".join(f"{column} DESC" for column in columns)
        if part.has_index
        else "(created_at, id) DESC"
    )
    return (
        f"SELECT * FROM mkwanja.payments WHERE {' AND '.join(conditions)}"
        f" ORDER BY {order} LIMIT :limit"
    )
