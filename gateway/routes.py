"""The routes of the ingress, in one table.

The router is filled from this table, and `/openapi.json` is made from it.
"""

from __future__ import annotations

from collections.abc import Mapping

from domain.kinds import Kind
from gateway.openapi import views
from gateway.route import Route, SuccessResponse
from gateway.schemas import SCHEMAS
from gateway.schemas.queries import (
    EventParameters,
    HistoryParameters,
    PageParameters,
    WaitParameters,
)
from gateway.webhooks.routes import WEBHOOK_ROUTES

_ACCEPTED = SuccessResponse(
    views.Payment,
    "The payment is stored. A worker will send it to M-PESA.",
    ("Location", "Idempotency-Replayed"),
)

_IDEMPOTENT = (
    "If you send the same request with the same key again, you get the first answer again, byte "
    "for byte. This holds as long as the key is stored, which is at least 24 hours. Another "
    "request with the same key is rejected."
)


CREATE_PAYMENT: Mapping[Kind, Route] = {
    kind: Route(
        name=schema.route_name,
        method="POST",
        path=schema.path,
        tag="Payments",
        summary=schema.summary,
        description=_IDEMPOTENT,
        body=schema.body,
        success_responses={202: _ACCEPTED},
    )
    for kind, schema in SCHEMAS.items()
}

LIST_PAYMENTS = Route(
    name="listPayments",
    method="GET",
    path="/v1/payments",
    tag="Payments",
    summary="List payments, newest first",
    description=(
        "Backends see all payments. An app's user sees only its own. If you give several filters, "
        "a payment must match all of them."
    ),
    query=PageParameters,
    success_responses={200: SuccessResponse(views.PaymentPage, "A page of payments.")},
)
READ_PAYMENT = Route(
    name="readPayment",
    method="GET",
    path="/v1/payments/{payment_id}",
    tag="Payments",
    summary="Read one payment, or wait until it is final",
    query=WaitParameters,
    success_responses={200: SuccessResponse(views.Payment, "The payment in its present state.")},
)
CANCEL_PAYMENT = Route(
    name="cancelPayment",
    method="POST",
    path="/v1/payments/{payment_id}/cancel",
    tag="Payments",
    summary="Cancel a payment that was provably not sent",
    description="You may repeat the request. A body is not read.",
    success_responses={
        200: SuccessResponse(views.Payment, "The payment was not sent, and will not be sent.")
    },
)
READ_HISTORY = Route(
    name="readHistory",
    method="GET",
    path="/v1/payments/{payment_id}/history",
    tag="Payments",
    summary="Read the history of a payment, oldest entry first",
    description="Only backends see the name of an operator and the text that the operator wrote.",
    query=HistoryParameters,
    success_responses={200: SuccessResponse(views.HistoryPage, "A page of the history.")},
)
LIST_EVENTS = Route(
    name="listEvents",
    method="GET",
    path="/v1/events",
    tag="Events",
    summary="List all events in the order of their commits",
    description=(
        "Read here the events that you missed on Redis. Backends see all events. An app's user "
        "sees only the events of its own payments. With `Accept: text/event-stream` the answer is "
        "a stream: it has the events from now on, or after `Last-Event-ID` or `after`, as soon as "
        "they are stored. `id` is a cursor, `data` is the event in one line. An event of the type "
        "`end` says why the service ends the stream, and how to continue."
    ),
    query=EventParameters,
    success_responses={
        200: SuccessResponse(views.EventPage, "The events after the cursor.", may_be_stream=True)
    },
)
DOCUMENT = Route(
    name="readDocument",
    method="GET",
    path="/openapi.json",
    tag="Operations",
    summary="Read this document",
    success_responses={200: SuccessResponse(views.Document, "The OpenAPI 3.1 document.")},
    is_open=True,
)
EVENTS_DOCUMENT = Route(
    name="readEventsDocument",
    method="GET",
    path="/asyncapi.json",
    tag="Operations",
    summary="Read the document of the events",
    success_responses={
        200: SuccessResponse(
            views.EventsDocument, "The AsyncAPI 3 document: the channels and what they carry."
        )
    },
    is_open=True,
)
# `health.py` adds these routes to both processes of the gateway.
HEALTH = (
    Route(
        name="healthz",
        method="GET",
        path="/healthz",
        tag="Operations",
        summary="Check that the process answers",
        success_responses={200: SuccessResponse(views.Health, "The process answers.")},
        is_open=True,
    ),
    Route(
        name="readyz",
        method="GET",
        path="/readyz",
        tag="Operations",
        summary="Check whether the process can serve requests",
        success_responses={
            200: SuccessResponse(views.Readiness, "The process can serve requests."),
            503: SuccessResponse(views.Readiness, "The process cannot serve requests."),
        },
        is_open=True,
    ),
    Route(
        name="metrics",
        method="GET",
        path="/metrics",
        tag="Operations",
        summary="Read counters and gauges for Prometheus",
        success_responses={
            200: SuccessResponse(None, "The metrics, in the text format of Prometheus.")
        },
        is_open=True,
    ),
)

ROUTES = (
    *CREATE_PAYMENT.values(),
    LIST_PAYMENTS,
    READ_PAYMENT,
    CANCEL_PAYMENT,
    READ_HISTORY,
    LIST_EVENTS,
    *WEBHOOK_ROUTES,
    DOCUMENT,
    EVENTS_DOCUMENT,
    *HEALTH,
)
