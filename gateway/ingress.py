"""The ingress: what clients call.

Checks who calls and what they ask, promises in one commit, wakes a worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from aiohttp import web

from domain.adapters import observability
from domain.adapters.postgres.accepting import Accepting
from domain.adapters.postgres.engine import POOL_WAIT_SECONDS
from domain.adapters.postgres.epoch import Epochs
from domain.adapters.postgres.feed import Feed, ListedEvent
from domain.adapters.redis.rates import CallerRates
from domain.adapters.redis.replays import Copy, Replays
from domain.adapters.redis.wakeups import RedisWakeups
from domain.adapters.settings.errors import impossible
from domain.adapters.settings.web import IngressSettings
from domain.changes import ChangeResult
from domain.errors import FieldError, InvalidRequest, PaymentNotFound, RequestRefused, Unavailable
from domain.idempotency import FirstAnswer, fingerprint
from domain.kinds import Kind
from domain.lifecycle.accept import Acceptance, accept, answer_refusal, cancel
from domain.payment import Payment
from domain.policy import Policy, charges, may_see, require_permission
from domain.values import Caller
from domain.views import public_entry, public_payment
from gateway import routes
from gateway.auth.keys import KeySet
from gateway.auth.verifier import TokenVerifier
from gateway.cursors import OF_ANOTHER_LIFE, FeedPlace, HistoryPlace, feed_cursor, history_cursor
from gateway.edge.aiohttp_internals import make_application
from gateway.edge.cors import allow_origins
from gateway.edge.load import INGRESS_AT_HAND_MAX, Load, count_for
from gateway.edge.plain_http import (
    answer_expectation,
    refuse_escapes,
    refuse_odd_http,
    route_pattern,
)
from gateway.edge.problems import answer_with_problems
from gateway.edge.read_queue import ReadQueue
from gateway.edge.requests import BODY_BYTES_MAX, idempotency_key, read_json
from gateway.health import Health
from gateway.openapi.document import document
from gateway.resources import HEALTH_ROUTES, Resources
from gateway.schemas.bodies import payment_request
from gateway.schemas.queries import (
    EventParameters,
    HistoryParameters,
    NoParameters,
    PageParameters,
    WaitParameters,
    history_position,
    next_cursor,
    page_query,
    query,
)
from gateway.turns import Turn, Turns

Handler = Callable[[web.Request], Awaitable[web.Response]]

# Connections of the pool that reads leave to those who write.
_CONNECTIONS_FOR_WRITES = 3


@dataclass(frozen=True, slots=True)
class Ingress:
    """The routes and what they stand on."""

    resources: Resources
    policy: Policy
    expires_after: Mapping[Kind, timedelta]
    verifier: TokenVerifier
    turns: Turns
    accepting: Accepting
    wakeups: RedisWakeups
    replays: Replays
    feed: Feed
    epochs: Epochs
    reads: ReadQueue

    def accepts(self, kind: Kind) -> Handler:
        """The handler of POST for one kind of payment."""

        async def post(request: web.Request) -> web.Response:
            caller = await self._caller(request)
            query(NoParameters, request.query)
            key = idempotency_key(request.headers)
            body = await read_json(request)
            mark = fingerprint(request.method, request.path, body)
            if copy := await self._copy(caller, key, mark):
                return _answer(copy, is_replay=True)
            turn: Turn | None = None  # until the caller's rate lets the request go on
            try:
                turn = await self.turns.take(caller)
                require_permission(caller, kind)
                wanted = payment_request(kind, body, caller)
                taken = charges(self.policy, caller, wanted)
            except (RequestRefused, Unavailable) as refusal:
                with nullcontext() if turn else self.turns.bound_lookup(caller, refusal):
                    first = await answer_refusal(
                        self.accepting,
                        refusal,
                        caller=caller,
                        idempotency_key=key,
                        fingerprint=mark,
                    )
                if turn:
                    await self.turns.give_back(caller, turn)
                return _answer(first, is_replay=True)
            acceptance = await accept(
                self.accepting,
                wanted,
                caller=caller,
                idempotency_key=key,
                fingerprint=mark,
                expires_after=self.expires_after[kind],
                charges=taken,
                answer=lambda payment: _json(
                    public_payment(payment, for_backend=caller.is_backend)
                ),
            )
            if acceptance.is_replay:
                await self.turns.give_back(caller, turn)
            else:
                observability.accepted.labels(kind=kind.value).inc()
                await self._after_commit(caller, key, acceptance)
            return _answer(acceptance.answer, is_replay=acceptance.is_replay)

        return post

    async def read(self, request: web.Request) -> web.Response:
        """GET /v1/payments/{id}. `wait` is checked and answered at once for now."""
        caller = await self._welcome(request)
        query(WaitParameters, request.query)
        return _view(await self._own_payment(request, caller), caller)

    async def cancel(self, request: web.Request) -> web.Response:
        """POST /v1/payments/{id}/cancel"""
        caller = await self._welcome(request)
        query(NoParameters, request.query)
        payment_id = _payment_id(request)

        async def cancel_and_announce() -> ChangeResult:
            result = await cancel(self.resources.changes, payment_id, caller=caller)
            self.resources.announcer.announce_soon(result)
            return result

        result = await self.reads.finish(cancel_and_announce)
        payment = result.decided.payment
        assert payment is not None  # noqa: S101 - cancel raises where there is none
        return _view(payment, caller)

    async def page(self, request: web.Request) -> web.Response:
        """GET /v1/payments"""
        caller = await self._welcome(request)
        parameters = query(PageParameters, request.query)
        payments = await self.reads.run(
            lambda: self.resources.reading.page(page_query(parameters, caller))
        )
        items, has_more = payments[: parameters.limit], len(payments) > parameters.limit
        return _ok(
            {
                "items": [public_payment(item, for_backend=caller.is_backend) for item in items],
                "next_cursor": next_cursor(parameters, items[-1]) if has_more else None,
            }
        )

    async def history(self, request: web.Request) -> web.Response:
        """GET /v1/payments/{id}/history"""
        caller = await self._welcome(request)
        parameters = query(HistoryParameters, request.query)
        payment = await self._own_payment(request, caller)
        after = history_position(parameters, payment)
        rows = await self.reads.run(
            lambda: self.resources.reading.history(
                payment.id, after=after, limit=parameters.limit + 1
            )
        )
        items, has_more = rows[: parameters.limit], len(rows) > parameters.limit
        place = HistoryPlace(items[-1].sequence, payment.id) if has_more else None
        return _ok(
            {
                "items": [public_entry(item, for_backend=caller.is_backend) for item in items],
                "next_cursor": history_cursor(place) if place else None,
            }
        )

    async def events(self, request: web.Request) -> web.Response:
        """GET /v1/events: each as it was published, in the order in which they were committed."""
        caller = await self._welcome(request)
        parameters = query(EventParameters, request.query)
        after = parameters.after or FeedPlace()
        owner = None if caller.is_backend else caller.subject

        async def page() -> list[ListedEvent]:
            if after.mark is not None and not await self.feed.knows(after.position, after.mark):
                raise InvalidRequest([FieldError("?after", OF_ANOTHER_LIFE)])
            return await self.feed.page(after=after.position, limit=parameters.limit, owner=owner)

        found = await self.reads.run(page)
        cursor = feed_cursor(FeedPlace(found[-1].position, found[-1].mark) if found else after)
        # The bodies were fixed when their facts were: they are not rendered again.
        items = ",".join(event.body for event in found)
        body = f'{{"items":[{items}],"next_cursor":"{cursor}"}}'
        return web.Response(body=body.encode(), content_type="application/json")

    async def _caller(self, request: web.Request) -> Caller:
        """Who asks. Raises Overloaded if too many of this caller's requests are at hand already."""
        caller = await self.verifier.caller(request.headers.getall("Authorization", []))
        count_for(request, caller.key)
        return caller

    async def _welcome(self, request: web.Request) -> Caller:
        """Who asks, unless too often. (POST looks for a first answer before it refuses for
        that.)
        """
        caller = await self._caller(request)
        await self.turns.take(caller)
        return caller

    async def _own_payment(self, request: web.Request, caller: Caller) -> Payment:
        payment_id = _payment_id(request)
        payment = await self.reads.run(lambda: self.resources.reading.payment(payment_id))
        if payment is None or not may_see(caller, payment):
            raise PaymentNotFound
        return payment

    async def _copy(self, caller: Caller, key: str, mark: bytes) -> FirstAnswer | None:
        """The copy in Redis of this very request's answer; Postgres decides about everything
        else.
        """
        copy = await self.resources.if_redis_answers(
            lambda: self.replays.read(caller.key, key, now=datetime.now(UTC))
        )
        if not isinstance(copy, Copy) or copy.answer.fingerprint != mark:
            return None
        # Its payment may be missing from a database that was restored.
        return copy.answer if copy.epoch == await self.epochs.current() else None

    async def _after_commit(self, caller: Caller, key: str, acceptance: Acceptance) -> None:
        """Wakes a worker, and keeps a copy of the answer.

        Both may fail: the sweeper and Postgres have the rest.
        """

        async def tell_redis() -> None:
            await asyncio.gather(
                self.wakeups.wake_one(UUID(acceptance.answer.payment_id)),
                self.replays.write(
                    caller.key,
                    key,
                    Copy(acceptance.answer, acceptance.epoch),
                    acceptance.expires_at,
                ),
            )

        await self.resources.if_redis_answers(tell_redis)


def _payment_id(request: web.Request) -> UUID:
    try:
        return UUID(request.match_info["payment_id"])
    except ValueError:
        raise PaymentNotFound from None


def _answer(answer: FirstAnswer, *, is_replay: bool) -> web.Response:
    headers = {"Location": f"/v1/payments/{answer.payment_id}"}
    if is_replay:
        observability.replayed.inc()
        headers["Idempotency-Replayed"] = "true"
    return web.Response(
        body=answer.body, status=answer.status, content_type="application/json", headers=headers
    )


def _view(payment: Payment, caller: Caller) -> web.Response:
    return _ok(public_payment(payment, for_backend=caller.is_backend))


def _ok(value: object) -> web.Response:
    return web.Response(body=_json(value), content_type="application/json")


def _json(value: object) -> bytes:
    return orjson.dumps(value)


def _document_handler() -> Handler:
    body = _json(document())

    async def get(_request: web.Request) -> web.Response:
        """GET /openapi.json"""
        return web.Response(body=body, content_type="application/json")

    return get


def ingress_app(settings: IngressSettings) -> web.Application:
    """The composition root of the web process."""
    resources = Resources(settings, process="web")
    has_secret = settings.jwt_secret is not None
    keys = KeySet(settings.jwt_jwks_url, has_secret=has_secret) if settings.jwt_jwks_url else None
    policy = settings.policy
    with impossible("JWT_SECRET"):
        verifier = TokenVerifier(
            keys,
            settings.jwt_secret,
            settings.jwt_issuer,
            settings.jwt_audience,
            former_issuers=settings.jwt_former_issuers,
            allow_anonymous=policy.allow_anonymous,
        )
    ingress = Ingress(
        resources=resources,
        policy=policy,
        expires_after=settings.expires_after,
        verifier=verifier,
        turns=Turns(resources, policy, CallerRates(resources.redis)),
        accepting=Accepting(resources.database),
        wakeups=RedisWakeups(resources.redis),
        replays=Replays(resources.redis),
        feed=Feed(resources.database),
        epochs=Epochs(resources.database),
        reads=ReadQueue(
            at_once=max(1, settings.database_pool_size - _CONNECTIONS_FOR_WRITES),
            patience_seconds=POOL_WAIT_SECONDS,
        ),
    )
    load = Load(
        INGRESS_AT_HAND_MAX,
        is_counted=lambda request: (
            route_pattern(request) not in (*HEALTH_ROUTES, routes.DOCUMENT.path)
        ),
    )
    # Those of health read the record past the queue.
    finish_health = ingress.reads.finishing(lambda request: route_pattern(request) in HEALTH_ROUTES)
    app = make_application(
        middlewares=[
            answer_with_problems,
            refuse_odd_http,
            refuse_escapes,
            load.middleware,
            finish_health,
        ],
        body_bytes_max=BODY_BYTES_MAX,
        answer_expectation=answer_expectation,
    )

    async def lifetime(_app: web.Application) -> Any:
        await resources.start()
        if keys is not None:
            await keys.start()
        yield
        await ingress.reads.drain()
        await ingress.accepting.drain()
        if keys is not None:
            await keys.close()
        await resources.close()

    app.cleanup_ctx.append(lifetime)
    handlers: dict[routes.Route, Handler] = {
        **{route: ingress.accepts(kind) for kind, route in routes.PAYING.items()},
        routes.LIST_PAYMENTS: ingress.page,
        routes.LIST_EVENTS: ingress.events,
        routes.READ_PAYMENT: ingress.read,
        routes.CANCEL_PAYMENT: ingress.cancel,
        routes.READ_HISTORY: ingress.history,
        routes.DOCUMENT: _document_handler(),
    }
    for route, handler in handlers.items():
        add = app.router.add_get if route.method == "GET" else app.router.add_post
        add(route.path, handler)
    allow_origins(app, settings.cors_allowed_origins, "/v1/")
    Health(resources, has_keys=(lambda: keys.is_loaded) if keys is not None else None).add_routes(
        app
    )
    return app
