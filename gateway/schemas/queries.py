"""The query parameters of each route. The answer names every wrong value at once."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Literal, TypeVar
from urllib.parse import unquote_to_bytes
from uuid import UUID

from aiohttp import web
from multidict import CIMultiDictProxy, MultiMapping
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from domain.adapters.postgres.feed import FeedPlace
from domain.adapters.postgres.listing import PageQuery
from domain.errors import FieldError, InvalidRequest
from domain.kinds import Kind
from domain.payment import Payment
from domain.values import Caller
from gateway.cursors import PagePlace, feed_place, page_cursor
from gateway.fields import (
    ITEMS_MAX,
    FeedCursor,
    Flag,
    HistoryCursor,
    Limit,
    Moment,
    PageCursor,
    PhoneNumber,
    StorableText,
    WaitSeconds,
)
from gateway.schemas.faults import describe_faults

Model = TypeVar("Model", bound="Parameters")

# The header with the last `id:` of a stream that a client has had.
LAST_EVENT_ID = "Last-Event-ID"


class Parameters(BaseModel):
    """The base of all queries: unknown parameters are rejected."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def list_contradictions(self) -> list[FieldError]:
        """Parameters that are right by themselves, and wrong together."""
        return []


class PageParameters(Parameters):
    """GET /v1/payments"""

    kind: Kind | None = None
    status: Literal["pending", "success", "failed"] | None = None
    phone_number: PhoneNumber | None = None
    account_reference: StorableText | None = None
    receipt: StorableText | None = None
    idempotency_key: StorableText | None = None
    needs_review: Flag | None = None
    created_after: Moment | None = None
    created_before: Moment | None = None
    limit: Limit = 20
    cursor: PageCursor | None = Field(
        None,
        description=(
            "`next_cursor` of the previous page. It is valid only with the same filters as that "
            "page."
        ),
    )

    def list_contradictions(self) -> list[FieldError]:
        after, before = self.created_after, self.created_before
        if after is None or before is None or after <= before:
            return []
        return [
            FieldError("?created_after", "is later than created_before, so no payment matches"),
            FieldError("?created_before", "is earlier than created_after, so no payment matches"),
        ]


class EventParameters(Parameters):
    """GET /v1/events"""

    after: FeedCursor | None = Field(
        None,
        description=(
            "`next_cursor` of the previous answer. The default is the feed's beginning. The header "
            "`Last-Event-ID` counts before it."
        ),
    )
    limit: Limit = Field(20, description="Not for a stream, which has no end.")


class HistoryParameters(Parameters):
    """GET /v1/payments/{payment_id}/history"""

    limit: Limit = ITEMS_MAX
    cursor: HistoryCursor | None = Field(
        None, description="`next_cursor` of the previous page. It is valid only for this payment."
    )


class WaitParameters(Parameters):
    """GET /v1/payments/{payment_id}"""

    wait: WaitSeconds = Field(
        0,
        description=(
            "How many seconds the answer may wait until the payment is final. If the payment is "
            "final, or after this time, the answer is the payment in its present state."
        ),
    )


class NoParameters(Parameters):
    """Routes without query parameters."""


def read_parameters(request: web.Request, model: type[Model]) -> Model:
    """Parses the query parameters of `request`. Raises InvalidRequest with each wrong parameter."""
    if faults := list_undecodable(request):
        raise InvalidRequest(faults)
    return parse_query(model, request.query)


def list_undecodable(request: web.Request) -> list[FieldError]:
    """The query parameters that have bytes that are not UTF-8.

    `request.query` has other characters in place of these bytes, so a filter would match nothing.
    """
    raw = request.rel_url.raw_query_string
    if "%" not in raw and raw.isascii():
        return []
    names: dict[str, None] = {}
    for pair in raw.split("&"):
        octets = unquote_to_bytes(pair.encode("utf-8", "surrogateescape"))
        try:
            octets.decode()
        except UnicodeDecodeError:
            names[octets.partition(b"=")[0].decode("utf-8", "backslashreplace")] = None
    detail = "has bytes that are not UTF-8; encode the text as UTF-8, then each byte as %XX"
    return [FieldError(f"?{name}", detail) for name in names]


def parse_query(model: type[Model], parameters: MultiMapping[str]) -> Model:
    """Parses the query parameters. Raises InvalidRequest with every wrong parameter."""
    repeated = sorted({name for name in parameters if len(parameters.getall(name)) > 1})
    if repeated:
        raise InvalidRequest(
            [FieldError(f"?{name}", "is sent more than once") for name in repeated]
        )
    try:
        parsed = model.model_validate(dict(parameters))
    except ValidationError as error:
        faults = describe_faults(error, lambda place: f"?{place[0]}", model.model_fields)
        raise InvalidRequest(faults) from None
    if faults := parsed.list_contradictions():
        raise InvalidRequest(faults)
    return parsed


def feed_start(
    parameters: EventParameters, headers: CIMultiDictProxy[str], *, is_stream: bool
) -> FeedPlace | None:
    """Where the caller wants to begin. None: it does not say.

    The header `Last-Event-ID` counts before `?after=`, because a client that reconnects repeats its
    URL, but sends the newest id. It counts for a page too. Raises InvalidRequest with everything
    that is wrong.
    """
    faults: list[FieldError] = []
    if is_stream and "limit" in parameters.model_fields_set:
        faults.append(FieldError("?limit", "is not for a stream; leave it out"))
    ids = headers.getall(LAST_EVENT_ID, [])
    place = parameters.after
    if len(ids) > 1:
        faults.append(FieldError(LAST_EVENT_ID, "is sent more than once"))
    elif ids:
        try:
            place = feed_place(ids[0])
        except ValueError as error:
            faults.append(
                FieldError(LAST_EVENT_ID, f"{error}. The cursor is the last `id:` you received")
            )
    if faults:
        raise InvalidRequest(faults)
    return place


def reject_parameters(request: web.Request) -> None:
    """Raises InvalidRequest if the request has query parameters, for routes that take none."""
    if request.rel_url.raw_query_string:
        read_parameters(request, NoParameters)


def page_query(parameters: PageParameters, caller: Caller) -> PageQuery:
    """The query for the payments that `caller` asks for. An app's user sees only its own payments.

    See `page_query_of`.
    """
    return page_query_of(parameters, None if caller.is_backend else caller.subject)


def page_query_of(parameters: PageParameters, owner: str | None) -> PageQuery:
    """The query for the payments of `owner`, or of all owners.

    The query reads one payment more than a page, to find out whether there is a next page.
    """
    equal = parameters.model_dump(
        include={
            "kind",
            "phone_number",
            "account_reference",
            "receipt",
            "idempotency_key",
            "needs_review",
        },
        exclude_none=True,
    )
    if owner is not None:
        equal["owner"] = owner
    return PageQuery(
        equal=equal,
        status=parameters.status,
        created_after=parameters.created_after,
        created_before=parameters.created_before,
        older_than=_older_than(parameters),
        limit=parameters.limit + 1,
    )


def next_cursor(parameters: PageParameters, last: Payment) -> str:
    """The cursor of the page after `last`. It is valid only with the same filters."""
    return page_cursor(PagePlace(last.created_at, last.id, _filters(parameters)))


def history_position(parameters: HistoryParameters, payment: Payment) -> int:
    """The sequence after which the page of the history begins. 0 is the history's beginning.

    Raises InvalidRequest if the cursor belongs to another payment.
    """
    if parameters.cursor is None:
        return 0
    if parameters.cursor.payment_id != payment.id:
        raise InvalidRequest(
            [FieldError("?cursor", "belongs to another payment; start again without it")]
        )
    return parameters.cursor.sequence


def _older_than(parameters: PageParameters) -> tuple[datetime, UUID] | None:
    place = parameters.cursor
    if place is None:
        return None
    if place.filters != _filters(parameters):
        raise InvalidRequest(
            [FieldError("?cursor", "belongs to other filters; start again without it")]
        )
    return place.created_at, place.payment_id


def _filters(parameters: PageParameters) -> str:
    text = parameters.model_dump_json(exclude={"cursor", "limit"})
    return hashlib.sha256(text.encode()).hexdigest()[:16]
