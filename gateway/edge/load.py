"""How many requests a process has at hand: beyond that, new ones are told to come back. No queue is without end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiohttp import web
from aiohttp.typedefs import Middleware

from domain.adapters import observability
from domain.errors import Overloaded
from gateway.problems import Handler

# 1,000 must be able to wait before any is turned away (interface.md); a pool of ten connections to Postgres answers
# 2,000 in a few seconds, which is as long as callers wait.
INGRESS_AT_HAND_MAX = 2000
# Daraja sends once: what is turned away here is lost, and found again by an inquiry at best. So as many as there may be
# connections, but for what health checks need.
CALLBACKS_AT_HAND_MAX = 4000


class Place:
    """One request's among those at hand."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.is_taken = True


_PLACE = web.RequestKey("place", Place)


class Load:
    """Requests at hand. Those that `is_counted` does not want counted are never turned away."""

    def __init__(self, at_most: int, is_counted: Callable[[web.Request], bool]) -> None:
        self._at_most = at_most
        self._is_counted = is_counted
        self._at_hand = 0

    @property
    def middleware(self) -> Middleware:
        @web.middleware
        async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
            if not self._is_counted(request):
                return await handler(request)
            self._take()
            place = request[_PLACE] = Place(self)
            try:
                return await handler(request)
            finally:
                if place.is_taken:
                    self._at_hand -= 1

        return count

    def _take(self) -> None:
        if self._at_hand >= self._at_most:
            observability.shed.labels(reason="overloaded").inc()
            raise Overloaded
        self._at_hand += 1

    @contextmanager
    def without(self, place: Place) -> Iterator[None]:
        self._at_hand -= 1
        place.is_taken = False
        yield
        self._take()
        place.is_taken = True


@contextmanager
def place_given_back(request: web.Request) -> Iterator[None]:
    """While the block waits for the peer, others may have the request's place. Raises Overloaded if none is left after it."""
    place = request.get(_PLACE)
    if place is None:
        yield
        return
    with place.load.without(place):
        yield
