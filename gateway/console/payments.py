"""The list of payments: live, with filters and a search by phone, receipt, reference or id."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import urlencode
from uuid import UUID

from aiohttp import hdrs, web
from multidict import MultiDict

from domain.adapters.masking import mask_text
from domain.adapters.postgres.reading import PostgresReadingStore
from domain.adapters.postgres.searching import PaymentSearch
from domain.errors import FieldError, InvalidRequest
from domain.kinds import Kind
from domain.payment import Payment
from domain.policy import day_began_at
from domain.stages import Stage
from domain.values import parse_phone_number
from domain.views import timestamp
from gateway.console.pages import Pages, format_words
from gateway.console.sessions import Sessions
from gateway.console.visits import HOME, Form, Visit, redirect
from gateway.schemas.queries import PageParameters, next_cursor, page_query_of, parse_query

Result = TypeVar("Result")
# Runs a read in the queue of all reads, so that the console cannot starve callers.
Read = Callable[[Callable[[], Awaitable[Result]]], Awaitable[Result]]

ROWS = "/console/rows"
_PAGE_SIZE = 25
_SEARCH_LENGTH_MAX = 255

_PERIOD_DAYS = {"today": 0, "7d": 6, "30d": 29}
_CHOICES = (
    (
        "status",
        "Status",
        (("", "Any status"), ("pending", "Pending"), ("success", "Success"), ("failed", "Failed")),
    ),
    ("kind", "Kind", (("", "Any kind"), *((kind.value, format_words(kind)) for kind in Kind))),
    ("needs_review", "Review", (("", "All payments"), ("true", "Needs review"))),
    (
        "period",
        "Accepted",
        (("", "At any time"), ("today", "Today"), ("7d", "In 7 days"), ("30d", "In 30 days")),
    ),
)
_FILTERS = frozenset(name for name, _, _ in _CHOICES)

# Each stage in words, and the tone of its colour.
STATES = {
    Stage.ACCEPTED: ("accepted", "busy"),
    Stage.SUBMITTING: ("being sent", "busy"),
    Stage.AWAITING_RESULT: ("waits for its result", "busy"),
    Stage.IN_DOUBT: ("in doubt", "wait"),
    Stage.SUCCEEDED: ("success", "good"),
    Stage.FAILED: ("failed", "bad"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """A payment in a list. Its party and its reference are masked."""

    id: UUID
    created_at: datetime
    kind: str
    amount_kes: int
    party: str
    reference: str | None
    receipt: str | None
    state: str
    tone: str
    needs_review: bool


def row_of(payment: Payment) -> Row:
    request = payment.request
    state, tone = STATES[payment.stage]
    reference = request.account_reference
    return Row(
        id=payment.id,
        created_at=payment.created_at,
        kind=request.kind,
        amount_kes=request.amount_kes,
        party=mask_text(request.phone_number or request.paybill or request.till or ""),
        reference=mask_text(reference) if reference else None,
        receipt=payment.receipt,
        state=state,
        tone=tone,
        needs_review=payment.needs_review,
    )


class Payments:
    """The list and the search."""

    def __init__(
        self,
        *,
        pages: Pages,
        sessions: Sessions,
        reading: PostgresReadingStore,
        payment_search: PaymentSearch,
        read: Read[Any],
    ) -> None:
        self._pages = pages
        self._sessions = sessions
        self._reading = reading
        self._search = payment_search
        self._read = read

    async def show(self, visit: Visit) -> web.Response:
        """GET /console"""
        asked = _asked(visit.request)
        rows, next_path = await self._rows(asked)
        is_first = "cursor" not in asked
        kept = {name: asked[name] for name in asked if name not in _FILTERS | {"cursor"}}
        return self._pages.response(
            "payments.html",
            visit=visit,
            rows=rows,
            choices=_CHOICES,
            filters={name: asked[name] for name in asked if name in _FILTERS},
            kept=kept,
            found=self._describe(kept),
            live_path=_path(ROWS, asked) if is_first else None,
            first_path=None if is_first else _path(HOME, _without_cursor(asked)),
            next_path=next_path,
        )

    async def rows(self, visit: Visit) -> web.Response:
        """GET /console/rows: the first page's rows, or 304 if they have not changed."""
        rows, _ = await self._rows(_asked(visit.request))
        text = self._pages.render("rows.html", rows=rows)
        etag = f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'
        if visit.request.headers.get(hdrs.IF_NONE_MATCH) == etag:
            return web.Response(status=304, headers={hdrs.ETAG: etag})
        return web.Response(text=text, content_type="text/html", headers={hdrs.ETAG: etag})

    async def search(self, _visit: Visit, form: Form) -> web.Response:
        """POST /console/search. A phone number in a URL would be in logs, so it is sealed."""
        text = form.get("q", "").strip()
        if not text:
            return redirect(HOME)
        try:
            phone_number = parse_phone_number(text.replace(" ", "").replace("-", ""))
        except ValueError:
            return redirect(await self._path_of(text))
        return redirect(_path(HOME, {"who": self._sessions.seal_search(phone_number)}))

    async def _path_of(self, text: str) -> str:
        """The path of the one payment that `text` names, or of a list of several, or of none."""
        if not text.isprintable() or len(text) > _SEARCH_LENGTH_MAX:
            fault = f"must be at most {_SEARCH_LENGTH_MAX} printable characters"
            raise InvalidRequest([FieldError("q", fault)])
        payments: list[Payment] = await self._read(lambda: self._search.find(text, limit=2))
        if len(payments) == 1:
            return f"/console/payments/{payments[0].id}"
        has_key = any(payment.idempotency_key == text for payment in payments)
        return _path(HOME, {"idempotency_key" if has_key else "account_reference": text})

    async def _rows(self, asked: Mapping[str, str]) -> tuple[list[Row], str | None]:
        parameters = self._parameters(asked)
        payments = await self._read(lambda: self._reading.page(page_query_of(parameters, None)))
        shown = payments[: parameters.limit]
        next_path = (
            _path(HOME, {**asked, "cursor": next_cursor(parameters, shown[-1])})
            if len(payments) > parameters.limit
            else None
        )
        return [row_of(payment) for payment in shown], next_path

    def _parameters(self, asked: Mapping[str, str]) -> PageParameters:
        """The filters as those of GET /v1/payments. Raises InvalidRequest."""
        query = {"limit": str(_PAGE_SIZE), **asked}
        who, period = query.pop("who", None), query.pop("period", None)
        if who is not None:
            query["phone_number"] = self._open_search(who)
        if period is not None:
            if period not in _PERIOD_DAYS:
                raise InvalidRequest([FieldError("?period", f"must be {', '.join(_PERIOD_DAYS)}")])
            since = day_began_at(datetime.now(UTC)) - timedelta(days=_PERIOD_DAYS[period])
            query["created_after"] = timestamp(since)
        return parse_query(PageParameters, MultiDict(query))

    def _open_search(self, sealed: str) -> str:
        phone_number = self._sessions.open_search(sealed)
        if phone_number is None:
            raise InvalidRequest([FieldError("?who", "is too old; search for the number again")])
        return phone_number

    def _describe(self, kept: Mapping[str, str]) -> str:
        """The search in words, such as "phone number 2547******11"."""
        parts = [
            f"{format_words(name)} {mask_text(value)}"
            for name, value in kept.items()
            if name != "who"
        ]
        if "who" in kept:
            parts.insert(0, f"phone number {mask_text(self._open_search(kept['who']))}")
        return ", ".join(parts)


def _asked(request: web.Request) -> dict[str, str]:
    """The parameters that are not empty. A form sends each of its fields, also the empty ones."""
    return {name: value for name, value in request.query.items() if value}


def _without_cursor(asked: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in asked.items() if name != "cursor"}


def _path(path: str, parameters: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(parameters)}" if parameters else path
