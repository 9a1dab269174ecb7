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

_PLACE = "place"


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
            request[_PLACE] = self
            try:
                return await handler(request)
            finally:
                if request[_PLACE] is not None:
                    self._at_hand -= 1

        return count

    def _take(self) -> None:
        if self._at_hand >= self._at_most:
            observability.shed.labels(reason="overloaded").inc()
            raise Overloaded
        self._at_hand += 1

    @contextmanager
    def given_back(self, request: web.Request) -> Iterator[None]:
        self._at_hand -= 1
        request[_PLACE] = None
        yield
        self._take()
        request[_PLACE] = self


@contextmanager
def place_given_back(request: web.Request) -> Iterator[None]:
    """While the block waits for the peer, others may have the request's place. Raises Overloaded if none is left after it."""
    load: Load | None = request.get(_PLACE)
    if load is None:
        yield
        return
    with load.given_back(request):
        yield
