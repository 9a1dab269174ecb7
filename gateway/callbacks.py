"""The callback receiver, which Daraja calls.

One commit stores the raw message and, if the message says that the payment succeeded or failed,
finalizes the payment. Then the receiver answers 200, and publishes the event in the background.
Daraja sends once and does not retry (daraja.md §8.3). Therefore the receiver stores every message
that has a valid token, even one that it cannot parse. If it cannot store a message, it tries again
for as long as Daraja waits. It reads nothing from Postgres or Redis before it has verified the
token.
"""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import structlog
import uuid_utils.compat as uuid_utils
from aiohttp import web

from domain.adapters import observability
from domain.adapters.daraja.reports import UNREADABLE, read_report
from domain.adapters.daraja.secret_fields import SECRET_FIELDS
from domain.adapters.redis.wakeups import RedisWakeups
from domain.adapters.settings.callbacks import CallbackSettings
from domain.callback_address import verified_payment_id
from domain.changes import Change, ChangeResult, HistoryEntry, StoreAnswer, StoredCallback
from domain.errors import BodyTooLarge, StoreUnavailable
from domain.evidence import InquiryOutcome
from domain.lifecycle.record_callback import callback_change, raw_callback_change
from domain.report import Report
from gateway.edge.aiohttp_internals import make_application
from gateway.edge.load import (
    ADDRESS_PLACES_MAX,
    CALLBACKS_PLACES_MAX,
    RequestPlaces,
    count_place_for,
)
from gateway.edge.plain_http import answer_expect_header, reject_ambiguous_http
from gateway.edge.problems import answer_with_statuses
from gateway.edge.requests import read_bytes
from gateway.health import Health
from gateway.resources import Resources
from gateway.sources import Sources
from gateway.tracing import trace_callback

log = structlog.get_logger()

BODY_BYTES_MAX = 64 * 1024

# Daraja sends once, so the receiver tries to store a message for as long as Daraja is known to
# wait (daraja.md §8.3). `_ANSWER_WITHIN_SECONDS` starts when the request arrives, so it includes
# the time to receive the body. If the body arrives after that time, the receiver still tries for
# `_STORE_LATE_SECONDS`.
_ANSWER_WITHIN_SECONDS = 8
_STORE_LATE_SECONDS = 2
_STORE_RETRY_SECONDS = 0.25

# The payment of a request whose token is valid.
_PAYMENT_ID = web.RequestKey("payment_id", UUID)

_ACCEPTED = b'{"ResultCode": 0, "ResultDesc": "Accepted"}'


@dataclass(frozen=True, slots=True)
class Receiver:
    """The handler of the one route for messages, and the parts that it uses."""

    resources: Resources
    wakeups: RedisWakeups
    settings: CallbackSettings
    # From the policy. If a callback says that a payment above this amount succeeded, an inquiry
    # must confirm the success.
    confirm_above_kes: int | None
    sources: Sources = field(init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        sources = Sources(settings.callback_allowed_networks, settings.trusted_proxies)
        object.__setattr__(self, "sources", sources)

    async def receive(self, request: web.Request) -> web.Response:
        """POST /results/{payment_id}/{operation}/{token}"""
        payment_id = self.verified_payment_id(request)
        if payment_id is None:
            return _reject("token")
        operation = request.match_info["operation"]
        count_place_for(request, (payment_id, operation))
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + _ANSWER_WITHIN_SECONDS
        source = self.sources.address(
            request.remote or "", request.headers.getall("X-Forwarded-For", [])
        )
        try:
            body = await read_bytes(request, BODY_BYTES_MAX)
        except BodyTooLarge:
            observability.callbacks_refused.labels(reason="too_large").inc()
            return web.Response(status=413)
        if loop.time() >= give_up_at:
            give_up_at = loop.time() + _STORE_LATE_SECONDS
        report = UNREADABLE if _is_encoded(request) else _parse_report(payment_id, operation, body)
        callback = StoredCallback(
            id=UUID(int=uuid_utils.uuid7().int),
            operation=operation,
            outcome=report.outcome.value,
            source_address=source,
            source_allowed=self.sources.is_allowed(source),
            content_type=_header_text(request.headers.get("Content-Type")),
            body=SECRET_FIELDS.replace_secrets(body),
            body_sha256=hashlib.sha256(body).digest(),
            receipt=report.receipt,
        )
        try:
            result = await self._record(payment_id, callback, report, give_up_at)
        except StoreUnavailable:
            observability.callbacks_refused.labels(reason="not_stored").inc()
            # No traceback, because the cause is known. This log line raises an alarm.
            log.error("callback_not_stored", payment_id=str(payment_id))  # noqa: TRY400
            return web.Response(status=503, headers={"Retry-After": "2"})
        self._count_and_announce(payment_id, callback, result)
        # Let the publication start now. Otherwise it would wait until our answer to Daraja is
        # composed.
        await asyncio.sleep(0)
        answer = result.decided.effect(StoreAnswer)
        if answer is not None and answer.inquiry.outcome is InquiryOutcome.NOT_FOUND:
            # Daraja does not know the payment, so the rules may now permit a resend. Wake a
            # worker now, so that the payment does not wait for its next due time.
            with suppress(TimeoutError):
                async with asyncio.timeout_at(give_up_at):
                    await self.resources.if_redis_answers(lambda: self.wakeups.wake_one(payment_id))
        if not callback.source_allowed:
            return _reject("source")
        return web.Response(body=_ACCEPTED, content_type="application/json")

    def verified_payment_id(self, request: web.Request) -> UUID | None:
        """The id of the payment in the address. None if the token does not match the address."""
        payment_id: UUID | None = request.get(_PAYMENT_ID)
        if payment_id is not None:
            return payment_id
        secrets, parts = self.settings.callback_secrets, request.match_info
        payment_id = verified_payment_id(
            secrets, parts["payment_id"], parts["operation"], parts["token"]
        )
        if payment_id is not None:
            request[_PAYMENT_ID] = payment_id  # so that a token is verified only once
        return payment_id

    async def _record(
        self, payment_id: UUID, callback: StoredCallback, report: Report, give_up_at: float
    ) -> ChangeResult:
        try:
            change = callback_change(
                payment_id, callback, report, confirm_above_kes=self.confirm_above_kes
            )
            return await self._store(change, give_up_at)
        except StoreUnavailable:
            raise
        except Exception:
            # This is a bug of ours, or a constraint rejects the rows. Store the raw message anyway,
            # so that an operator can look at it.
            log.exception(
                "callback_not_processed", payment_id=str(payment_id), operation=callback.operation
            )
            return await self._store(
                raw_callback_change(payment_id, callback), give_up_at, retried=Exception
            )

    async def _store(
        self, change: Change, give_up_at: float, *, retried: type[Exception] = StoreUnavailable
    ) -> ChangeResult:
        """Tries to store the change until `give_up_at`, and at least once.

        At `give_up_at` this method stops waiting. A change that has begun can commit after that.
        """
        while True:
            try:
                async with asyncio.timeout_at(give_up_at):
                    return await self.resources.changes.change(change)
            except (retried, TimeoutError) as error:
                if asyncio.get_running_loop().time() + _STORE_RETRY_SECONDS >= give_up_at:
                    raise StoreUnavailable from error
                await asyncio.sleep(_STORE_RETRY_SECONDS)

    def _count_and_announce(
        self, payment_id: UUID, callback: StoredCallback, result: ChangeResult
    ) -> None:
        decided = result.decided
        observability.callbacks_stored.labels(disposition=decided.disposition).inc()
        if result.is_callback_repeated:
            observability.callbacks_repeated.inc()
        if decided.entry is not None and decided.entry.name is HistoryEntry.AWAITS_CONFIRMATION:
            observability.callbacks_awaiting_confirmation.inc()
        if decided.is_message_flagged:
            log.warning(
                "callback_flagged",
                payment_id=str(payment_id),
                operation=callback.operation,
                disposition=decided.disposition,
                source=callback.source_address,
            )
        self.resources.announcer.announce_soon(result)


def _parse_report(payment_id: UUID, operation: str, body: bytes) -> Report:
    try:
        return read_report(operation, body)
    except Exception:
        # This is a bug of ours. The raw message is stored anyway.
        log.exception("callback_not_read", payment_id=str(payment_id), operation=operation)
        return UNREADABLE


def _is_encoded(request: web.Request) -> bool:
    """Whether the body has a content coding, such as gzip.

    Daraja never encodes its bodies. An encoded body is stored as received, and not parsed.
    """
    return any(
        value.strip().lower() not in ("", "identity")
        for value in request.headers.getall("Content-Encoding", [])
    )


def _reject(reason: str) -> web.Response:
    """Returns the same 403 for each `reason`, so that a forger learns nothing."""
    observability.callbacks_refused.labels(reason=reason).inc()
    return web.Response(status=403)


def _header_text(value: str | None) -> str | None:
    return None if value is None else value[:200].encode("ascii", "replace").decode()


def callbacks_app(settings: CallbackSettings) -> web.Application:
    """Composes the callback process from its parts."""
    resources = Resources(settings, process="callbacks")
    receiver = Receiver(
        resources, RedisWakeups(resources.redis), settings, settings.policy.confirm_above_kes
    )

    def has_valid_token(request: web.Request) -> bool:
        return "token" in request.match_info and receiver.verified_payment_id(request) is not None

    # A call with a wrong token is rejected at once. It does not count, so it occupies no place that
    # Daraja's messages need.
    places = RequestPlaces(
        CALLBACKS_PLACES_MAX, is_counted=has_valid_token, share_max=ADDRESS_PLACES_MAX
    )
    app = make_application(
        middlewares=[answer_with_statuses, reject_ambiguous_http, places.middleware],
        body_bytes_max=BODY_BYTES_MAX,
        answer_expect_header=answer_expect_header,
    )

    async def lifetime(_app: web.Application) -> Any:
        await resources.start()
        yield
        await resources.close()

    app.cleanup_ctx.append(lifetime)
    receive = trace_callback(receiver.receive, receiver.verified_payment_id, resources.tracer)
    app.router.add_post("/results/{payment_id}/{operation}/{token}", receive)
    Health(resources).add_routes(app)
    return app
