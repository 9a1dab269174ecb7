"""GET /v1/events: a page of events as JSON, or a stream of server-sent events."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack

from aiohttp import hdrs, web

from domain.adapters.batching import Abandoned, Lane
from domain.adapters.postgres.feed import Feed, FeedPlace, ListedEvent
from domain.errors import FieldError, InvalidRequest
from domain.values import Caller
from gateway.auth.token_parts import token_expiry
from gateway.auth.verifier import LEEWAY_SECONDS, TokenVerifier
from gateway.cursors import UNKNOWN_EVENT, feed_cursor
from gateway.edge.read_queue import ReadQueue
from gateway.edge.requests import prefers_event_stream
from gateway.event_stream import STREAM_HEADERS, EventStream
from gateway.schemas.queries import LAST_EVENT_ID, EventParameters, feed_start, read_parameters
from gateway.tail import EventTail
from gateway.waiting_places import WaitingPlaces


class EventHandlers:
    """The handlers of the feed, and the parts that they use."""

    def __init__(
        self,
        *,
        authenticate: Callable[[web.Request], Awaitable[Caller]],
        verifier: TokenVerifier,
        feed: Feed,
        reads: ReadQueue,
        tail: EventTail,
        waiting_places: WaitingPlaces,
    ) -> None:
        self._authenticate = authenticate
        self._verifier = verifier
        self._feed = feed
        self._reads = reads
        self._tail = tail
        self._waiting_places = waiting_places
        # All streams that begin at the same time share one query for the end of the feed.
        self._ends: Lane[None, FeedPlace] = Lane(
            self._read_end, key=lambda _: 0, shared=lambda _: 0, abandoned=Abandoned.DROP
        )

    async def get(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/events: events as they were published, in the order of their commits."""
        caller = await self._authenticate(request)
        parameters = read_parameters(request, EventParameters)
        is_stream = prefers_event_stream(request.headers.getall(hdrs.ACCEPT, []))
        start = feed_start(parameters, request.headers, is_stream=is_stream)
        name = LAST_EVENT_ID if LAST_EVENT_ID in request.headers else "?after"
        if is_stream:
            return await self._stream(request, caller, start, name)
        return await self._list(caller, start or FeedPlace(), name, parameters.limit)

    async def _list(self, caller: Caller, after: FeedPlace, name: str, limit: int) -> web.Response:
        async def page() -> list[ListedEvent]:
            await self._require_known(after, name)
            return await self._feed.page(after=after.position, limit=limit, owner=owner_of(caller))

        events = await self._reads.run(page)
        cursor = feed_cursor(events[-1].place if events else after)
        # Each body was fixed in the commit that made the event, so it is not rendered again.
        items = ",".join(event.body for event in events)
        body = f'{{"items":[{items}],"next_cursor":"{cursor}"}}'
        return web.Response(body=body.encode(), content_type="application/json")

    async def _stream(
        self, request: web.Request, caller: Caller, start: FeedPlace | None, name: str
    ) -> web.StreamResponse:
        if request.method == hdrs.METH_HEAD:
            return web.Response(headers=STREAM_HEADERS)
        authorization = request.headers.getall(hdrs.AUTHORIZATION)
        with ExitStack() as waiting:
            waiting.enter_context(self._waiting_places.occupy(request, caller, "stream"))
            # The stream subscribes first. Every event after its start is then either in a page of
            # the feed or in its subscription.
            subscription = waiting.enter_context(self._tail.subscribe(owner_of(caller)))
            if start is None:
                place = await self._ends.submit(None)
            else:
                await self._reads.run(lambda: self._require_known(start, name))
                place = start
                subscription.mark_behind()
            owner = owner_of(caller)

            async def read_page(after: int, limit: int) -> list[ListedEvent]:
                return await self._reads.run(
                    lambda: self._feed.page(after=after, limit=limit, owner=owner)
                )

            stream = EventStream(
                subscription,
                place,
                read_page=read_page,
                reauthenticate=lambda: self._verifier.authenticate(authorization),
                expires_at=_end_of_token(authorization),
            )
            return await stream.send(request)

    async def _require_known(self, place: FeedPlace, name: str) -> None:
        """Raises InvalidRequest if the database has no such event (`Feed.has_event`)."""
        if place.mark is not None and not await self._feed.has_event(place.position, place.mark):
            raise InvalidRequest([FieldError(name, UNKNOWN_EVENT)])

    async def _read_end(self, _items: Sequence[None]) -> list[FeedPlace]:
        return [await self._reads.run(self._feed.end)]


def owner_of(caller: Caller) -> str | None:
    """Whose events the caller may see. None: the events of all."""
    return None if caller.is_backend else caller.subject


def _end_of_token(authorization: list[str]) -> float:
    """When a stream with this token ends (Unix seconds).

    A token that has expired already is accepted for a few seconds more, as in every request.
    """
    expires_at = token_expiry(authorization)
    return expires_at if time.time() < expires_at else expires_at + LEEWAY_SECONDS
