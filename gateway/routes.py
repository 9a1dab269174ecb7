"""The routes of the ingress, in one table: the router is filled from it, and `/openapi.json` is
made from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

from domain import errors
from domain.kinds import Kind
from gateway.edge.problems import HTTP_PROBLEMS, PROBLEMS, Problem
from gateway.openapi import views
from gateway.schemas import SCHEMAS
from gateway.schemas.kind_schema import Body
from gateway.schemas.queries import (
    EventParameters,
    HistoryParameters,
    NoParameters,
    PageParameters,
    Parameters,
    WaitParameters,
)


@dataclass(frozen=True, slots=True)
class Said:
    """A good answer. None as its model: text."""

    model: type[BaseModel] | None
    description: str
    headers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Route:
    """One method of one path. `is_open`: no token is needed, and none is looked at."""

    name: str  # the operationId
    method: Literal["GET", "POST"]
    path: str
    tag: str
    summary: str
    description: str = ""
    query: type[Parameters] = NoParameters
    body: type[Body] | None = None
    said: Mapping[int, Said]
    is_open: bool = False

    @property
    def names_payment(self) -> bool:
        return "{payment_id}" in self.path

    @property
    def problems(self) -> list[Problem]:
        """The refusals that its caller can meet.

        What is named nowhere below can happen to every request under /v1.
        """
        found = [problem for status, problem in HTTP_PROBLEMS.items() if self._is_met(status)]
        if self.is_open:
            return found
        left_out = {
            *(() if self.body else _OF_BODIES),
            *(() if self.path.endswith("/cancel") else _OF_CANCELLING),
            *(() if self.names_payment else _OF_IDS),
        }
        named = [problem for error, problem in PROBLEMS.items() if error not in left_out]
        return [*named, *(problem for problem in found if problem not in named)]

    def _is_met(self, http_status: int) -> bool:
        """Whether a request for this route can meet what aiohttp itself refuses with
        `http_status`.
        """
        match http_status:
            case 404:  # an id with a slash in it, or none at all, makes another path
                return self.names_payment
            case 405:  # another method is another operation, which there is not
                return False
            case 413:
                return self.body is not None
            case _:
                return True


_OF_BODIES = {
    errors.InvalidJson,
    errors.IdempotencyKeyMissing,
    errors.IdempotencyKeyInvalid,
    errors.IdempotencyKeyReused,
    errors.IdempotencyKeyInFlight,
    errors.LimitExceeded,
    errors.BodyTooLarge,
    errors.UnsupportedMediaType,
}
_OF_IDS = {errors.PaymentNotFound}
_OF_CANCELLING = {errors.TooLateToCancel}


_ACCEPTED = Said(
    views.Payment, "Held: it will be sent to M-PESA, once.", ("Location", "Idempotency-Replayed")
)

_IDEMPOTENT = (
    "The same request with the same key gets the first answer again, byte for byte, while the key is held (at least "
    "24 hours); another request with it is refused."
)


PAYING: Mapping[Kind, Route] = {
    kind: Route(
        name=schema.route_name,
        method="POST",
        path=schema.path,
        tag="Payments",
        summary=schema.summary,
        description=_IDEMPOTENT,
        body=schema.body,
        said={202: _ACCEPTED},
    )
    for kind, schema in SCHEMAS.items()
}

LIST_PAYMENTS = Route(
    name="listPayments",
    method="GET",
    path="/v1/payments",
    tag="Payments",
    summary="Payments, newest first",
    description="Backends see all, an app's user its own. Filters that are given together must all hold.",
    query=PageParameters,
    said={200: Said(views.PaymentPage, "A page of them.")},
)
READ_PAYMENT = Route(
    name="readPayment",
    method="GET",
    path="/v1/payments/{payment_id}",
    tag="Payments",
    summary="One payment as it stands",
    query=WaitParameters,
    said={200: Said(views.Payment, "The payment.")},
)
CANCEL_PAYMENT = Route(
    name="cancelPayment",
    method="POST",
    path="/v1/payments/{payment_id}/cancel",
    tag="Payments",
    summary="End a payment that can be proved unsent",
    description="May be repeated. No body is read.",
    said={200: Said(views.Payment, "It was not sent, and will not be.")},
)
READ_HISTORY = Route(
    name="readHistory",
    method="GET",
    path="/v1/payments/{payment_id}/history",
    tag="Payments",
    summary="What happened to a payment, oldest first",
    description="What an operator wrote, and the operator's name, are for backends only.",
    query=HistoryParameters,
    said={200: Said(views.HistoryPage, "A page of it.")},
)
LIST_EVENTS = Route(
    name="listEvents",
    method="GET",
    path="/v1/events",
    tag="Events",
    summary="All events in the order of their commits",
    description="For whoever missed some on Redis. Backends see all, an app's user those of its own payments.",
    query=EventParameters,
    said={200: Said(views.EventPage, "Those after the cursor.")},
)
DOCUMENT = Route(
    name="readDocument",
    method="GET",
    path="/openapi.json",
    tag="Operations",
    summary="This document",
    said={200: Said(views.Document, "OpenAPI 3.1.")},
    is_open=True,
)
# `health.py` adds these to both web processes.
HEALTH = (
    Route(
        name="healthz",
        method="GET",
        path="/healthz",
        tag="Operations",
        summary="Whether the process answers",
        said={200: Said(views.Health, "It does.")},
        is_open=True,
    ),
    Route(
        name="readyz",
        method="GET",
        path="/readyz",
        tag="Operations",
        summary="Whether requests can be served",
        said={200: Said(views.Readiness, "They can."), 503: Said(views.Readiness, "They cannot.")},
        is_open=True,
    ),
    Route(
        name="metrics",
        method="GET",
        path="/metrics",
        tag="Operations",
        summary="Counters and gauges for Prometheus",
        said={200: Said(None, "In Prometheus's text format.")},
        is_open=True,
    ),
)

ROUTES = (
    *PAYING.values(),
    LIST_PAYMENTS,
    READ_PAYMENT,
    CANCEL_PAYMENT,
    READ_HISTORY,
    LIST_EVENTS,
    DOCUMENT,
    *HEALTH,
)
