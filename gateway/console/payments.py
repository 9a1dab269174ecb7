"""The list of payments: live, with filters and a search by phone, receipt, reference or id."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
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
from gateway.console.faults import Fault, show_faults
from gateway.console.forms import Form
from gateway.console.pages import Pages, format_words
from gateway.console.queries import Query, read_query
from gateway.console.sessions import Sessions
from gateway.console.visits import HOME, Visit, redirect
from gateway.schemas.queries import (
    PageParameters,
    list_undecodable,
    next_cursor,
    page_query_of,
    parse_query,
)

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
_KNOWN = frozenset(PageParameters.model_fields) | {"who", "period"}
# The names of the fields on the page.
_LABELS = {
    "q": "Search",
    "who": "The searched number",
    **{name: label for name, label, _ in _CHOICES},
}
_ID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
# What people write between the digits of a phone number.
_BETWEEN_DIGITS = re.compile(r"[\s().\-/\u2010-\u2015]")

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


@dataclass(frozen=True, slots=True)
class Filters:
    """What the page was asked for: `query` as in its address, and as the parameters of a read."""

    query: Query
    parameters: PageParameters


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
        try:
            asked = self._read_filters(visit)
            rows, next_path = await self._rows(asked)
        except InvalidRequest as refusal:
            return self._refused(visit, refusal)
        is_first = "cursor" not in asked.query
        return self._page(
            visit,
            asked.query,
            rows=rows,
            live_path=_path(ROWS, asked.query) if is_first else None,
            first_path=None if is_first else _path(HOME, _without_cursor(asked.query)),
            next_path=next_path,
        )

    def _refused(self, visit: Visit, refusal: InvalidRequest, searched: str = "") -> web.Response:
        """The page without rows: it says what is wrong, and keeps what is right in its forms."""
        given, _ = read_query(visit.request.query, _KNOWN)
        wrong = {error.pointer for error in refusal.errors} | {"?cursor"}
        right = {name: value for name, value in given.items() if f"?{name}" not in wrong}
        return self._page(
            visit,
            right,
            status=422,
            rows=None,
            faults=show_faults(refusal.errors, visit.request.query, _LABELS),
            searched=searched,
        )

    def _page(
        self,
        visit: Visit,
        query: Query,
        *,
        rows: list[Row] | None,
        status: int = 200,
        faults: Sequence[Fault] = (),
        searched: str = "",
        live_path: str | None = None,
        first_path: str | None = None,
        next_path: str | None = None,
    ) -> web.Response:
        kept = {name: query[name] for name in query if name not in _FILTERS | {"cursor"}}
        return self._pages.response(
            "payments.html",
            status=status,
            visit=visit,
            rows=rows,
            faults=faults,
            searched=searched,
            choices=_CHOICES,
            filters={name: query[name] for name in query if name in _FILTERS},
            kept=kept,
            found=self._describe(kept),
            live_path=live_path,
            first_path=first_path,
            next_path=next_path,
        )

    async def rows(self, visit: Visit) -> web.Response:
        """GET /console/rows: the first page's rows, or 304 if they have not changed."""
        rows, _ = await self._rows(self._read_filters(visit))
        text = self._pages.render("rows.html", rows=rows)
        etag = f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'
        if visit.request.headers.get(hdrs.IF_NONE_MATCH) == etag:
            return web.Response(status=304, headers={hdrs.ETAG: etag})
        return web.Response(text=text, content_type="text/html", headers={hdrs.ETAG: etag})

    async def search(self, visit: Visit, form: Form) -> web.Response:
        """POST /console/search. A phone number in a URL would be in logs, so it is sealed."""
        text = form.get("q", "").strip()
        if not text:
            return redirect(HOME)
        try:
            phone_number = parse_phone_number(_BETWEEN_DIGITS.sub("", text))
        except ValueError:
            if not text.isprintable() or len(text) > _SEARCH_LENGTH_MAX:
                fault = f"must be one line of at most {_SEARCH_LENGTH_MAX} printable characters"
                return self._refused(visit, InvalidRequest([FieldError("q", fault)]), text)
            return redirect(await self._path_of(text))
        return redirect(_path(HOME, {"who": self._sessions.seal_search(phone_number)}))

    async def _path_of(self, text: str) -> str:
        """The path of the one payment that `text` names, or of a list of several, or of none."""
        payments: list[Payment] = await self._read(lambda: self._search.find(text, limit=2))
        ids = set(_ID.findall(text))
        if not payments and len(ids) == 1:  # such as the link of a payment's page
            [payment_id] = ids
            payments = await self._read(lambda: self._search.find(payment_id, limit=2))
        if len(payments) == 1:
            return f"/console/payments/{payments[0].id}"
        has_key = any(payment.idempotency_key == text for payment in payments)
        return _path(HOME, {"idempotency_key" if has_key else "account_reference": text})

    async def _rows(self, asked: Filters) -> tuple[list[Row], str | None]:
        parameters = asked.parameters
        payments = await self._read(lambda: self._reading.page(page_query_of(parameters, None)))
        shown = payments[: parameters.limit]
        next_path = (
            _path(HOME, {**asked.query, "cursor": next_cursor(parameters, shown[-1])})
            if len(payments) > parameters.limit
            else None
        )
        return [row_of(payment) for payment in shown], next_path

    def _read_filters(self, visit: Visit) -> Filters:
        """The filters as those of GET /v1/payments. Raises InvalidRequest with all faults."""
        query, faults = read_query(visit.request.query, _KNOWN)
        known = {f"?{name}" for name in _KNOWN}
        faults += [each for each in list_undecodable(visit.request) if each.pointer in known]
        translated = {"limit": str(_PAGE_SIZE), **query}
        who, period = translated.pop("who", None), translated.pop("period", None)
        if who is not None:
            phone_number = self._sessions.open_search(who)
            if phone_number is None:
                faults.append(FieldError("?who", "is too old; search for the number again"))
            else:
                translated["phone_number"] = phone_number
        if period is not None:
            if period in _PERIOD_DAYS:
                since = day_began_at(datetime.now(UTC)) - timedelta(days=_PERIOD_DAYS[period])
                translated["created_after"] = timestamp(since)
            else:
                faults.append(FieldError("?period", "must be today, 7d or 30d"))
        try:
            parameters = parse_query(PageParameters, MultiDict(translated))
        except InvalidRequest as refusal:
            raise InvalidRequest([*faults, *refusal.errors]) from None
        if faults:
            raise InvalidRequest(faults)
        return Filters(query, parameters)

    def _describe(self, kept: Mapping[str, str]) -> str:
        """The search in words, such as "phone number 2547******11"."""
        parts = [
            f"{format_words(name)} {mask_text(value)}"
            for name, value in kept.items()
            if name != "who"
        ]
        phone_number = self._sessions.open_search(kept.get("who", ""))
        if phone_number is not None:
            parts.insert(0, f"phone number {mask_text(phone_number)}")
        return ", ".join(parts)


def _without_cursor(asked: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in asked.items() if name != "cursor"}


def _path(path: str, parameters: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(parameters)}" if parameters else path
