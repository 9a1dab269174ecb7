"""The handlers of the web process: authenticate the caller, check the request, and answer it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import orjson
from aiohttp import hdrs, web

from domain.adapters import observability
from domain.adapters.postgres.accepting import PostgresAcceptingStore
from domain.adapters.postgres.epoch import EpochReader
from domain.adapters.redis.replays import Copy, CopyToWrite, Replays
from domain.changes import ChangeResult
from domain.errors import (
    PaymentNotFound,
    RequestRefused,
    StoreUnavailable,
    Unavailable,
)
from domain.idempotency import FirstAnswer, fingerprint
from domain.kinds import Kind
from domain.lifecycle.accept import Acceptance, accept, cancel, replay_or_raise
from domain.payment import Payment
from domain.policy import Policy, list_charges, may_see, require_permission
from domain.values import Caller
from domain.views import public_entry, public_payment
from gateway.auth.verifier import TokenVerifier
from gateway.cursors import HistoryPlace, history_cursor
from gateway.edge.load import count_place_for
from gateway.edge.read_queue import ReadQueue
from gateway.edge.requests import idempotency_key, read_json
from gateway.follow_ups import FollowUps
from gateway.rate_limits import Permit, RateLimits
from gateway.recent_answers import RecentAnswers
from gateway.resources import Resources
from gateway.schemas.bodies import payment_request
from gateway.schemas.queries import (
    HistoryParameters,
    PageParameters,
    WaitParameters,
    history_position,
    next_cursor,
    page_query,
    read_parameters,
    reject_parameters,
)
from gateway.waiting import WaitForPayments
from gateway.waiting_places import WaitingPlaces

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class _Repeatable:
    """What decides if a request repeats an earlier one."""

    caller: Caller
    key: str
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class IngressHandlers:
    """One handler for each route of the ingress, and the parts that they use."""

    resources: Resources
    policy: Policy
    expires_after: Mapping[Kind, timedelta]
    verifier: TokenVerifier
    rate_limits: RateLimits
    accepting: PostgresAcceptingStore
    follow_ups: FollowUps
    replays: Replays
    recent_answers: RecentAnswers
    epochs: EpochReader
    reads: ReadQueue
    waiting: WaitForPayments
    waiting_places: WaitingPlaces

    def create_payment(self, kind: Kind) -> Handler:
        """The handler of POST for one kind of payment."""
        count_accepted = observability.accepted.labels(kind=kind.value).inc

        async def post(request: web.Request) -> web.Response:
            caller = await self._authenticate(request)
            reject_parameters(request)
            key = idempotency_key(request.headers)
            body = await read_json(request)
            repeatable = _Repeatable(caller, key, fingerprint(request.method, request.path, body))
            if kept_answer := await self._recall(repeatable):
                return _first_answer_response(kept_answer, is_replay=True)
            permit: Permit | None = None  # None until the caller's rate allows the request
            try:
                permit = await self.rate_limits.obtain_permit(caller)
                require_permission(caller, kind)
                checked_request = payment_request(kind, body, caller)
                request_charges = list_charges(self.policy, caller, checked_request)
            except (RequestRefused, Unavailable) as refusal:
                first_answer = await self._replay_or_raise(repeatable, refusal, permit)
                return _first_answer_response(first_answer, is_replay=True)
            try:
                acceptance = await accept(
                    self.accepting,
                    checked_request,
                    caller=caller,
                    idempotency_key=key,
                    fingerprint=repeatable.fingerprint,
                    expires_after=self.expires_after[kind],
                    charges=request_charges,
                    answer=lambda payment: orjson.dumps(
                        public_payment(payment, for_backend=caller.is_backend)
                    ),
                )
            except StoreUnavailable:
                copied_answer = await self._read_copy(repeatable)
                if copied_answer is None:
                    raise
                await self.rate_limits.return_permit(caller, permit)
                return _first_answer_response(copied_answer, is_replay=True)
            if acceptance.is_replay:
                await self.rate_limits.return_permit(caller, permit)
            else:
                count_accepted()
                await self._wake_and_copy(repeatable, acceptance)
            return _first_answer_response(acceptance.answer, is_replay=acceptance.is_replay)

        return post

    async def read_payment(self, request: web.Request) -> web.Response:
        """GET /v1/payments/{id}. With `?wait=` the answer may wait until the payment is final."""
        caller = await self.authenticate_within_rate(request)
        seconds = read_parameters(request, WaitParameters).wait
        payment = await self._read_visible_payment(request, caller)
        if seconds and not payment.stage.is_final and request.method != hdrs.METH_HEAD:
            with self.waiting_places.occupy(request, caller, "payment"):
                payment = await self.waiting.read_when_final(payment, seconds)
        return _payment_response(payment, caller)

    async def cancel_payment(self, request: web.Request) -> web.Response:
        """POST /v1/payments/{id}/cancel"""
        caller = await self.authenticate_within_rate(request)
        reject_parameters(request)
        payment_id = _payment_id(request)

        async def cancel_and_announce() -> ChangeResult:
            result = await cancel(self.resources.changes, payment_id, caller=caller)
            self.resources.announcer.announce_soon(result)
            return result

        result = await self.reads.finish(cancel_and_announce)
        payment = result.decided.payment
        assert payment is not None  # noqa: S101 - cancel raises if there is no such payment
        return _payment_response(payment, caller)

    async def list_payments(self, request: web.Request) -> web.Response:
        """GET /v1/payments"""
        caller = await self.authenticate_within_rate(request)
        parameters = read_parameters(request, PageParameters)
        payments = await self.reads.run(
            lambda: self.resources.reading.page(page_query(parameters, caller))
        )
        items, has_more = payments[: parameters.limit], len(payments) > parameters.limit
        return _json_response(
            {
                "items": [public_payment(item, for_backend=caller.is_backend) for item in items],
                "next_cursor": next_cursor(parameters, items[-1]) if has_more else None,
            }
        )

    async def read_history(self, request: web.Request) -> web.Response:
        """GET /v1/payments/{id}/history"""
        caller = await self.authenticate_within_rate(request)
        parameters = read_parameters(request, HistoryParameters)
        payment = await self._read_visible_payment(request, caller)
        after = history_position(parameters, payment)
        rows = await self.reads.run(
            lambda: self.resources.reading.history(
                payment.id, after=after, limit=parameters.limit + 1
            )
        )
        items, has_more = rows[: parameters.limit], len(rows) > parameters.limit
        place = HistoryPlace(items[-1].sequence, payment.id) if has_more else None
        return _json_response(
            {
                "items": [public_entry(item, for_backend=caller.is_backend) for item in items],
                "next_cursor": history_cursor(place) if place else None,
            }
        )

    async def _authenticate(self, request: web.Request) -> Caller:
        """Returns the caller. Raises Overloaded if its requests occupy too many places already."""
        caller = await self.verifier.authenticate(request.headers.getall("Authorization", []))
        count_place_for(request, caller.key)
        return caller

    async def authenticate_within_rate(self, request: web.Request) -> Caller:
        """The caller, if its rate allows the request.

        `create_payment` does not call this method. It must look for a first answer before it
        rejects a request.
        """
        caller = await self._authenticate(request)
        await self.rate_limits.obtain_permit(caller)
        return caller

    async def _read_visible_payment(self, request: web.Request, caller: Caller) -> Payment:
        payment_id = _payment_id(request)
        payment = await self.reads.run(lambda: self.resources.reading.payment(payment_id))
        if payment is None or not may_see(caller, payment):
            raise PaymentNotFound
        return payment

    async def _recall(self, repeatable: _Repeatable) -> FirstAnswer | None:
        """The first answer to this same request, if this process gave it lately."""
        copy = self.recent_answers.recall(repeatable.caller.key, repeatable.key)
        return None if copy is None else await self._answer_of(copy, repeatable)

    async def _read_copy(self, repeatable: _Repeatable) -> FirstAnswer | None:
        """The copy in Redis of the first answer to this same request, if there is one.

        Only a request that cannot be accepted now needs the copy. For all others Postgres finds the
        first answer while it accepts, so no request waits for Redis before its commit.
        """
        caller_key, key = repeatable.caller.key, repeatable.key
        copy = await self.resources.if_redis_answers(
            lambda: self.replays.read(caller_key, key, now=datetime.now(UTC))
        )
        return await self._answer_of(copy, repeatable) if isinstance(copy, Copy) else None

    async def _answer_of(self, copy: Copy, repeatable: _Repeatable) -> FirstAnswer | None:
        """The copy's answer, if the copy is of this same request and of the present epoch."""
        if copy.answer.fingerprint != repeatable.fingerprint:
            return None
        # After a restore, the payment of the copy may be missing from the database.
        return copy.answer if copy.epoch == await self.epochs.current() else None

    async def _replay_or_raise(
        self,
        repeatable: _Repeatable,
        refusal: RequestRefused | Unavailable,
        permit: Permit | None,
    ) -> FirstAnswer:
        """The stored first answer, or raises `refusal`.

        A repeated request gets its first answer, even if the same request would be rejected today
        as a new one.
        """
        if copied_answer := await self._read_copy(repeatable):
            first_answer = copied_answer
        else:
            caller = repeatable.caller
            with nullcontext() if permit else self.rate_limits.limit_lookups(caller, refusal):
                first_answer = await replay_or_raise(
                    self.accepting,
                    refusal,
                    caller=caller,
                    idempotency_key=repeatable.key,
                    fingerprint=repeatable.fingerprint,
                )
        if permit:
            await self.rate_limits.return_permit(repeatable.caller, permit)
        return first_answer

    async def _wake_and_copy(self, repeatable: _Repeatable, acceptance: Acceptance) -> None:
        """Wakes a worker, and keeps the answer for replays: in this process and in Redis.

        Both writes to Redis can fail. If so, the sweeper wakes a worker, and a retry gets the
        answer from Postgres.
        """
        caller_key, key = repeatable.caller.key, repeatable.key
        copy = Copy(acceptance.answer, acceptance.epoch)
        self.recent_answers.remember(caller_key, key, copy)
        await self.follow_ups.submit(CopyToWrite(caller_key, key, copy, acceptance.expires_at))


def _payment_id(request: web.Request) -> UUID:
    try:
        return UUID(request.match_info["payment_id"])
    except ValueError:
        raise PaymentNotFound from None


def _first_answer_response(answer: FirstAnswer, *, is_replay: bool) -> web.Response:
    headers = {"Location": f"/v1/payments/{answer.payment_id}"}
    if is_replay:
        observability.replayed.inc()
        headers["Idempotency-Replayed"] = "true"
    return web.Response(
        body=answer.body, status=answer.status, content_type="application/json", headers=headers
    )


def _payment_response(payment: Payment, caller: Caller) -> web.Response:
    return _json_response(public_payment(payment, for_backend=caller.is_backend))


def _json_response(value: object) -> web.Response:
    return web.Response(body=orjson.dumps(value), content_type="application/json")
