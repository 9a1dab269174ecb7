"""The web process: the routes that clients call, and the parts behind them."""

from __future__ import annotations

from typing import Any

import orjson
from aiohttp import web

from domain.adapters.postgres.accepting import PostgresAcceptingStore
from domain.adapters.postgres.engine import POOL_WAIT_SECONDS
from domain.adapters.postgres.epoch import EpochReader
from domain.adapters.postgres.feed import Feed
from domain.adapters.postgres.webhook_endpoints import WebhookEndpoints
from domain.adapters.redis.rates import CallerRates
from domain.adapters.redis.replays import Replays
from domain.adapters.redis.wakeups import RedisWakeups
from domain.adapters.settings.errors import raise_as_settings_error
from domain.adapters.settings.web import IngressSettings
from domain.adapters.tracing import TracedWakeups
from domain.adapters.webhooks.sealing import KeySeal
from gateway import routes
from gateway.auth.keys import KeySet
from gateway.auth.verifier import TokenVerifier
from gateway.console.composition import add_console
from gateway.edge.aiohttp_internals import make_application
from gateway.edge.answers import ROUTE
from gateway.edge.cors import allow_origins
from gateway.edge.early_refusal import ANSWER_EARLY, refuse_early
from gateway.edge.load import INGRESS_PLACES_MAX, RequestPlaces
from gateway.edge.plain_http import answer_expect_header, plain_http_only
from gateway.edge.problems import RETURNS, answer_with_problems
from gateway.edge.read_queue import ReadQueue
from gateway.edge.requests import BODY_BYTES_MAX
from gateway.event_handlers import EventHandlers
from gateway.follow_ups import FollowUps, NewWakeups
from gateway.health import Health
from gateway.ingress_handlers import Handler, IngressHandlers
from gateway.openapi.asyncapi import asyncapi_document
from gateway.openapi.document import document
from gateway.rate_limits import RateLimits
from gateway.recent_answers import RecentAnswers
from gateway.reference import Reference
from gateway.resources import HEALTH_ROUTES, Resources
from gateway.route import Route
from gateway.tail import EventTail
from gateway.tracing import trace_acceptance
from gateway.waiting import WaitForPayments
from gateway.waiting_places import WaitingPlaces
from gateway.webhooks.handlers import WebhookHandlers

# Reads leave this many connections of the pool free for writes.
_CONNECTIONS_FOR_WRITES = 3

# An overloaded process answers requests for these routes too.
_ROUTES_WITHOUT_PLACE = HEALTH_ROUTES | {routes.DOCUMENT.path, routes.EVENTS_DOCUMENT.path}


def ingress_app(settings: IngressSettings) -> web.Application:
    """Composes the web process from its parts."""
    resources = Resources(settings, process="web")
    has_secret = settings.jwt_secret is not None
    keys = KeySet(settings.jwt_jwks_url, has_secret=has_secret) if settings.jwt_jwks_url else None
    policy = settings.policy
    with raise_as_settings_error("JWT_SECRET"):
        verifier = TokenVerifier(
            keys,
            settings.jwt_secret,
            settings.jwt_issuer,
            settings.jwt_audience,
            former_issuers=settings.jwt_former_issuers,
            allow_anonymous=policy.allow_anonymous,
        )
    replays = Replays(resources.redis)
    wakeups = _wakeups(resources)
    feed = Feed(resources.database)
    reads = ReadQueue(
        at_once=max(1, settings.database_pool_size - _CONNECTIONS_FOR_WRITES),
        patience_seconds=POOL_WAIT_SECONDS,
    )
    tail = EventTail(feed, reads, resources.redis)
    waiting_places = WaitingPlaces(policy)
    handlers = IngressHandlers(
        resources=resources,
        policy=policy,
        expires_after=settings.expires_after,
        verifier=verifier,
        rate_limits=RateLimits(resources, policy, CallerRates(resources.redis)),
        accepting=PostgresAcceptingStore(resources.database),
        follow_ups=FollowUps(resources, wakeups, replays),
        replays=replays,
        recent_answers=RecentAnswers(),
        epochs=EpochReader(resources.database),
        reads=reads,
        waiting=WaitForPayments(tail, resources.reading, reads),
        waiting_places=waiting_places,
    )
    events = EventHandlers(
        authenticate=handlers.authenticate_within_rate,
        verifier=verifier,
        feed=feed,
        reads=reads,
        tail=tail,
        waiting_places=waiting_places,
    )
    webhooks = WebhookHandlers(
        endpoints=WebhookEndpoints(resources.database),
        seal=KeySeal(settings.webhook_secrets_key),
        allowed_networks=settings.webhook_allowed_networks,
        verifier=verifier,
        rate_limits=handlers.rate_limits,
        reads=handlers.reads,
    )
    places = RequestPlaces(
        INGRESS_PLACES_MAX,
        is_counted=lambda request: request[ROUTE] not in _ROUTES_WITHOUT_PLACE,
    )
    app = make_application(
        middlewares=[
            answer_with_problems,
            plain_http_only(allows_escapes=False),
            places.middleware,
        ],
        body_bytes_max=BODY_BYTES_MAX,
        answer_expect_header=answer_expect_header,
    )

    app[ANSWER_EARLY] = refuse_early(places.is_full, "/v1/", RETURNS)

    async def lifetime(_app: web.Application) -> Any:
        await resources.start()
        if keys is not None:
            await keys.start()
        yield
        await tail.close()
        await handlers.reads.drain()
        await handlers.accepting.drain()
        await handlers.follow_ups.drain()
        await handlers.rate_limits.drain()
        if keys is not None:
            await keys.close()
        await resources.close()

    async def end_waits(_app: web.Application) -> None:
        tail.stop()

    app.cleanup_ctx.append(lifetime)
    app.on_shutdown.append(end_waits)
    handler_by_route: dict[Route, Handler] = {
        **{
            route: trace_acceptance(handlers.create_payment(kind), resources.tracer)
            for kind, route in routes.CREATE_PAYMENT.items()
        },
        routes.LIST_PAYMENTS: handlers.list_payments,
        routes.LIST_EVENTS: events.get,
        routes.READ_PAYMENT: handlers.read_payment,
        routes.CANCEL_PAYMENT: handlers.cancel_payment,
        routes.READ_HISTORY: handlers.read_history,
        **webhooks.by_route(),
        routes.DOCUMENT: _document_handler(document()),
        routes.EVENTS_DOCUMENT: _document_handler(asyncapi_document()),
    }
    for route, handler in handler_by_route.items():
        if route.method == "GET":
            app.router.add_get(route.path, handler)  # and HEAD
        else:
            app.router.add_route(route.method, route.path, handler)
    if settings.api_reference == "on":
        Reference().add_routes(app)
    if settings.console_secret is not None:
        add_console(
            app,
            secret=settings.console_secret,
            resources=resources,
            verifier=verifier,
            reads=handlers.reads,
            times=settings.decision_times,
            wakeups=wakeups,
        )
    allow_origins(app, settings.cors_allowed_origins, "/v1/")
    # The health routes read from PostgreSQL too, but must not wait in `handlers.reads`, the queue
    # of all other requests that read.
    health = Health(
        resources,
        has_keys=(lambda: keys.is_loaded) if keys is not None else None,
        finish=handlers.reads.finish,
        is_one_of_many=settings.web_concurrency > 1,
    )
    health.add_routes(app)
    return app


def _wakeups(resources: Resources) -> NewWakeups:
    wakeups, tracer = RedisWakeups(resources.redis), resources.tracer
    return wakeups if tracer is None else TracedWakeups(wakeups.wake_new, tracer)


def _document_handler(content: dict[str, Any]) -> Handler:
    body = orjson.dumps(content)

    async def get(_request: web.Request) -> web.Response:
        """GET /openapi.json or /asyncapi.json"""
        return web.Response(body=body, content_type="application/json")

    return get
