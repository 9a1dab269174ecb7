"""The hops of a payment in the gateway: its acceptance, and the callbacks about it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from uuid import UUID

from aiohttp import web

from domain.adapters.masking import mask_text
from domain.adapters.tracing import HopKind, Tracer, hop
from gateway.edge.answers import request_id

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


def trace_acceptance(handler: Handler, tracer: Tracer | None) -> Handler:
    """`handler` makes a payment. Its first request is the first hop, and each repetition another.

    If the caller sent a trace, the hop has a link to it.
    """
    if tracer is None:
        return handler

    async def traced(request: web.Request) -> web.StreamResponse:
        with hop(tracer, "accept", None, HopKind.SERVER) as accept:
            response = await handler(request)
            location = response.headers.get("Location")
            if location is not None:
                accept.payment_id = UUID(location.rpartition("/")[2])
                accept.is_first = "Idempotency-Replayed" not in response.headers
                accept.name = "accept" if accept.is_first else "replay"
                accept.attributes["http.response.status_code"] = response.status
                accept.attributes["mkwanja.request_id"] = mask_text(request_id(request))
                accept.caller_trace = _caller_trace(request)
            return response

    return traced


def _caller_trace(request: web.Request) -> tuple[int, int] | None:
    match = _TRACEPARENT.fullmatch(request.headers.get("traceparent", ""))
    if match is None:
        return None
    trace_id, span_id = int(match[1], 16), int(match[2], 16)
    return (trace_id, span_id) if trace_id and span_id else None


def trace_callback(
    handler: Handler, payment_id_of: Callable[[web.Request], UUID | None], tracer: Tracer | None
) -> Handler:
    """`handler` receives a callback. `payment_id_of`: its payment, if its token is valid."""
    if tracer is None:
        return handler

    async def traced(request: web.Request) -> web.StreamResponse:
        with hop(tracer, "callback", None, HopKind.SERVER) as callback:
            response = await handler(request)
            callback.payment_id = payment_id_of(request)
            if callback.payment_id is not None:
                # The token fits the operation, so it is one of ours.
                callback.attributes["mkwanja.operation"] = request.match_info["operation"]
                callback.attributes["http.response.status_code"] = response.status
            return response

    return traced
