"""Serves endpoints: claims deliveries, sends them, and records each attempt.

While an endpoint has due deliveries, a task of its own sends them, a few at the same time. An
endpoint that answers slowly therefore delays no other. If this process dies or freezes, another
worker sends the same deliveries again, with the same `webhook-id`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from uuid import UUID, uuid4

import structlog

from domain.adapters import observability
from domain.adapters.postgres.webhook_deliveries import (
    TURN_SECONDS,
    ClaimedDelivery,
    WebhookDeliveries,
)
from domain.adapters.tracing import MessageSender
from domain.adapters.webhooks.sealing import KeySeal, KeyUnreadable
from domain.adapters.webhooks.sender import Sent
from domain.errors import PaymentServiceError
from domain.webhooks.endpoint import Attempt, DeliveryStatus, EndpointStatus
from domain.webhooks.retries import Verdict
from domain.webhooks.signing import signed_headers

log = structlog.get_logger()

# The requests that one endpoint gets at the same time.
_SENDS_PER_ENDPOINT_MAX = 8

# The endpoints that this worker serves at the same time. Other workers serve the rest.
_ENDPOINTS_MAX = 100

# The connections of the worker's pool that webhooks use at the same time. Payments use the others.
_DATABASE_CALLS_MAX = 2

# A worker has an endpoint for a *turn* (webhook_deliveries.py). If a delivery was claimed longer
# ago than this, for example because the process was frozen, it is not sent. So each attempt that
# begins has enough of the turn left to end in it.
_SEND_WITHIN_SECONDS = TURN_SECONDS / 3

# The turn is renewed at least this often, also while no request ends.
_RENEW_SECONDS = TURN_SECONDS / 3

_RECORD_TRIES = 3
_RECORD_AGAIN_SECONDS = 1.0

# A process that ends waits this long for answers. Unanswered deliveries are sent again.
_DRAIN_SECONDS = 1.0


class Deliverer:
    """Serves endpoints in the background. `clock` also counts while the process is frozen."""

    def __init__(
        self,
        deliveries: WebhookDeliveries,
        sender: MessageSender,
        seal: KeySeal,
        *,
        clock: Callable[[], float],
    ) -> None:
        self._deliveries = deliveries
        self._sender = sender
        self._seal = seal
        self._clock = clock
        self._serving: dict[UUID, asyncio.Task[None]] = {}
        self._database_calls = asyncio.Semaphore(_DATABASE_CALLS_MAX)
        self._is_draining = False

    def serve_soon(self, endpoint_id: UUID) -> None:
        """Sends to the endpoint all that is due, in the background."""
        if (
            self._is_draining
            or endpoint_id in self._serving
            or len(self._serving) >= _ENDPOINTS_MAX
        ):
            return  # a later sweep wakes a worker again
        self._serving[endpoint_id] = asyncio.create_task(self._serve(endpoint_id))

    def stop_claiming(self) -> None:
        """Claims nothing more. What is under way continues."""
        self._is_draining = True

    async def drain(self) -> None:
        """Claims nothing more, and waits a moment for answers."""
        self.stop_claiming()
        tasks = list(self._serving.values())
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=_DRAIN_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._sender.close()

    async def _serve(self, endpoint_id: UUID) -> None:
        turn = uuid4()
        try:
            await self._serve_while_due(endpoint_id, turn)
            async with self._database_calls:
                await self._deliveries.end_turn(endpoint_id, turn)
        except PaymentServiceError as error:
            log.warning("webhooks_postponed", endpoint=str(endpoint_id), error=type(error).__name__)
        except Exception:
            log.exception("webhooks_failed", endpoint=str(endpoint_id))
        finally:
            del self._serving[endpoint_id]

    async def _serve_while_due(self, endpoint_id: UUID, turn: UUID) -> None:
        """Keeps a few requests under way until nothing is due."""
        async with asyncio.TaskGroup() as group:
            sends: set[asyncio.Task[None]] = set()
            while not self._is_draining:
                claimed_at = self._clock()
                free = _SENDS_PER_ENDPOINT_MAX - len(sends)
                async with self._database_calls:
                    claimed = await self._deliveries.claim(
                        endpoint_id, turn, limit=free, open_keys=partial(self._open, endpoint_id)
                    )
                if claimed is None:
                    return
                for delivery in claimed.deliveries:
                    send = self._deliver(
                        endpoint_id, claimed.url, delivery, claimed.keys, claimed_at
                    )
                    sends.add(group.create_task(self._guard(endpoint_id, send)))
                if not sends:
                    return
                _, sends = await asyncio.wait(
                    sends, timeout=_RENEW_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )

    def _open(self, endpoint_id: UUID, sealed: bytes, previous: bytes | None) -> list[bytes]:
        """The keys that sign, or none if the present key is unreadable.

        A message that only the previous key has signed would fail at receivers that know only the
        present one. Without the previous key, receivers of the present one still accept messages.
        """
        try:
            keys = [self._seal.open(sealed, endpoint_id)]
            if previous is not None:
                with suppress(KeyUnreadable):
                    keys.append(self._seal.open(previous, endpoint_id))
        except KeyUnreadable:
            observability.webhook_keys_unreadable.inc()
            log.error("webhook_key_unreadable", endpoint=str(endpoint_id))  # noqa: TRY400
            return []
        return keys

    async def _guard(self, endpoint_id: UUID, send: Awaitable[None]) -> None:
        try:
            await send
        except Exception:
            # A bug must not end the other requests to this endpoint.
            log.exception("webhook_failed", endpoint=str(endpoint_id))

    async def _deliver(
        self,
        endpoint_id: UUID,
        url: str,
        delivery: ClaimedDelivery,
        keys: Sequence[bytes],
        claimed_at: float,
    ) -> None:
        if self._clock() - claimed_at > _SEND_WITHIN_SECONDS:
            return  # another worker may send it soon
        body = delivery.body.encode()
        headers = signed_headers(
            keys, event_id=delivery.event_id, unix_seconds=int(time.time()), body=body
        )
        attempted_at = datetime.now(UTC)
        sent = await self._sender.send(url, headers, body)
        observability.webhook_attempts.labels(outcome=sent.outcome).inc()
        attempt = _attempt(delivery.attempt, attempted_at, sent)
        verdict = await self._record(endpoint_id, delivery.number, attempt)
        if verdict is not None:
            _log(endpoint_id, delivery.number, attempt, verdict)

    async def _record(self, endpoint_id: UUID, number: int, attempt: Attempt) -> Verdict | None:
        """Stores the attempt. If PostgreSQL stays away, the delivery is sent again later."""
        for is_last in (*[False] * (_RECORD_TRIES - 1), True):
            try:
                async with self._database_calls:
                    return await self._deliveries.record(endpoint_id, number, attempt)
            except PaymentServiceError as error:
                if is_last:
                    name = type(error).__name__
                    log.warning("webhook_not_recorded", endpoint=str(endpoint_id), error=name)
                    return None
            await asyncio.sleep(_RECORD_AGAIN_SECONDS)
        return None


def _attempt(number: int, attempted_at: datetime, sent: Sent) -> Attempt:
    return Attempt(
        number=number,
        attempted_at=attempted_at,
        outcome=sent.outcome,
        http_status=sent.http_status,
        milliseconds=sent.milliseconds,
        answer=sent.answer,
    )


def _log(endpoint_id: UUID, number: int, attempt: Attempt, verdict: Verdict) -> None:
    """Logs what an engineer should know: a paused or gone endpoint, and a lost delivery."""
    fields = {"endpoint": str(endpoint_id), "delivery": number, "outcome": attempt.outcome.value}
    if verdict.endpoint_status is EndpointStatus.PAUSED:
        log.error("webhook_endpoint_paused", **fields)
    elif verdict.endpoint_status is EndpointStatus.DISABLED:
        log.warning("webhook_endpoint_gone", **fields)
    elif verdict.status is DeliveryStatus.FAILED:
        log.warning("webhook_given_up", **fields)
